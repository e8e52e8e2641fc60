//! What all servers of the soak know together: the time, the users, and what was issued for whom.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, jwk::Jwk};
use serde_json::{Value, json};
use tower_identity::{
    AccessToken, Clock, ManualClock, Secret, UpstreamToken, upstream::ProviderTokens,
};

use super::{
    ledger::Ledger,
    mint::{Claims, Kind, Mint},
    settings::Settings,
    support::identity_provider::{AUDIENCE, IdentityProvider, P256},
};

pub(crate) const HUB: &str = "https://hub.example.com";
pub(crate) const CHAT: &str = "https://auth.chat.example";

/// How far an issuer's clock may be off.
const ISSUERS_LEEWAY: Duration = Duration::from_secs(60);

pub(crate) struct Realm {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) mint: Mint,
    pub(crate) ledger: Arc<Ledger>,
    /// Whether backends may reject good tokens.
    pub(crate) is_stormy: AtomicBool,
    keys: IdentityProvider,
    public_key: DecodingKey,
    random: Mutex<fastrand::Rng>,
    serial: AtomicU64,
    log_ins: Vec<Mutex<LogIn>>,
}

/// What the upstream provider knows of a user.
#[derive(Default)]
struct LogIn {
    number: u64,
    newest: u64,
    /// The refresh token that was presented last without an answer.
    unanswered: Option<u64>,
    is_revoked: bool,
    /// The refresh token was spent, and what it brought never arrived.
    is_answer_lost: bool,
}

/// A user as their own token has them.
pub(crate) struct Caller {
    pub(crate) user: usize,
    pub(crate) expires_at: u64,
}

pub(crate) struct UserToken {
    pub(crate) text: String,
    pub(crate) expires_at: SystemTime,
}

impl Realm {
    pub(crate) fn new(
        settings: &Settings,
        clock: Arc<ManualClock>,
        keys: IdentityProvider,
        ledger: Arc<Ledger>,
    ) -> Self {
        let public_key: Jwk = serde_json::from_value(P256.public()).unwrap();
        let mut random = settings.random(1);
        Self {
            clock,
            mint: Mint::new(random.u64(..)),
            ledger,
            is_stormy: AtomicBool::new(false),
            keys,
            public_key: DecodingKey::from_jwk(&public_key).unwrap(),
            random: Mutex::new(random),
            serial: AtomicU64::new(1),
            log_ins: (0..settings.users).map(|_| Mutex::default()).collect(),
        }
    }

    pub(crate) fn keys(&self) -> &IdentityProvider {
        &self.keys
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    pub(crate) fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().unwrap()
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Relaxed)
    }

    /// The user's own token, which names their upstream tokens at the gateway's store.
    pub(crate) fn user_token(&self, user: usize, log_in: &str, lifetime: Duration) -> UserToken {
        self.user_token_until(user, log_in, self.now() + lifetime)
    }

    pub(crate) fn user_token_until(
        &self,
        user: usize,
        log_in: &str,
        expires_at: SystemTime,
    ) -> UserToken {
        let mut claims = self.keys.claims(&name(user), self.now());
        // In whole seconds, as the token says it.
        let seconds = expires_at.duration_since(UNIX_EPOCH).unwrap().as_secs();
        claims["exp"] = json!(seconds);
        claims["tsid"] = json!(log_in);
        claims["jti"] = json!(self.serial());
        UserToken {
            text: P256.sign(&P256.header(), &claims),
            expires_at: UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    /// Who it is, if the token is genuine and good now.
    pub(crate) fn caller(&self, token: &str) -> Option<Caller> {
        let (message, signature) = token.rsplit_once('.')?;
        let is_genuine = jsonwebtoken::crypto::verify(
            signature,
            message.as_bytes(),
            &self.public_key,
            P256.algorithm,
        );
        let claims = URL_SAFE_NO_PAD.decode(message.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        let expires_at = claims["exp"].as_u64()?;
        let is_good = is_genuine.ok()? && claims["aud"] == AUDIENCE && !self.is_past(expires_at);
        Some(Caller {
            user: number(claims["sub"].as_str()?)?,
            expires_at,
        })
        .filter(|_| is_good)
    }

    pub(crate) fn is_past(&self, end: u64) -> bool {
        end + ISSUERS_LEEWAY.as_secs() <= self.seconds()
    }

    /// What a new log-in of the user brings.
    pub(crate) fn log_in(&self, user: usize) -> ProviderTokens {
        let mut log_in = self.log_ins[user].lock().unwrap();
        let number = log_in.number + 1;
        *log_in = LogIn {
            number,
            ..LogIn::default()
        };
        let issued = self.upstream_tokens(user, &mut log_in);
        let token = UpstreamToken::new(AccessToken::new(issued.access_token).unwrap())
            .with_expires_at(issued.expires_at)
            .with_id_token(Secret::new(issued.id_token).unwrap());
        ProviderTokens::new(token, self.now())
            .with_refresh_token(Secret::new(issued.refresh_token).unwrap())
    }

    /// Has the user log in again once their tokens expire.
    pub(crate) fn revoke(&self, user: usize) {
        self.log_ins[user].lock().unwrap().is_revoked = true;
    }

    /// Whether there is a reason to send the user to log in again.
    pub(crate) fn has_to_log_in(&self, user: usize) -> bool {
        let log_in = self.log_ins[user].lock().unwrap();
        log_in.is_revoked || log_in.is_answer_lost
    }

    /// Spends a refresh token. One that comes twice is a fault, unless the answer to the first was lost.
    pub(crate) fn refresh(&self, refresh_token: &str, loses_answer: bool) -> Option<Issued> {
        let Some(claims) = self.mint.open(Kind::UpstreamRefresh, refresh_token) else {
            self.ledger.trouble("a refresh token that nobody issued");
            return None;
        };
        let mut log_in = self.log_ins[claims.user].lock().unwrap();
        if claims.log_in != log_in.number || log_in.is_revoked {
            return None;
        }
        if claims.serial != log_in.newest {
            if !log_in.is_answer_lost && log_in.unanswered != Some(claims.serial) {
                let user = name(claims.user);
                self.ledger
                    .trouble(format!("a refresh token of {user} was spent twice"));
            }
            log_in.is_revoked = true;
            return None;
        }
        log_in.is_answer_lost |= loses_answer;
        Some(self.upstream_tokens(claims.user, &mut log_in))
    }

    /// A refresh was sent, and no answer to it arrived.
    pub(crate) fn got_no_answer(&self, form: &[u8]) {
        let mut form = form_urlencoded::parse(form);
        let refresh_token = form.find(|(name, _)| name == "refresh_token").unwrap().1;
        let claims = self
            .mint
            .open(Kind::UpstreamRefresh, &refresh_token)
            .unwrap();
        let mut log_in = self.log_ins[claims.user].lock().unwrap();
        if claims.log_in == log_in.number {
            log_in.unanswered = Some(claims.serial);
        }
    }

    fn upstream_tokens(&self, user: usize, log_in: &mut LogIn) -> Issued {
        let now = self.seconds();
        let (lifetime, id_token_lifetime) = {
            let mut random = self.random();
            (random.u64(60..900), random.u64(60..900))
        };
        let claims = Claims {
            iss: HUB.to_owned(),
            aud: "gateway".to_owned(),
            user,
            log_in: log_in.number,
            serial: self.serial(),
            exp: now + lifetime,
            subject_exp: None,
        };
        log_in.newest = claims.serial;
        let id_token = Claims {
            exp: now + id_token_lifetime,
            ..claims.clone()
        };
        Issued {
            access_token: self.mint.issue(Kind::UpstreamAccess, &claims),
            id_token: self.mint.issue(Kind::UpstreamId, &id_token),
            refresh_token: self.mint.issue(Kind::UpstreamRefresh, &claims),
            lifetime,
            expires_at: claims.expires_at(),
        }
    }
}

pub(crate) struct Issued {
    pub(crate) access_token: String,
    pub(crate) id_token: String,
    pub(crate) refresh_token: String,
    pub(crate) lifetime: u64,
    expires_at: SystemTime,
}

pub(crate) fn name(user: usize) -> String {
    format!("user-{user:04}")
}

pub(crate) fn number(name: &str) -> Option<usize> {
    name.strip_prefix("user-")?.parse().ok()
}
