//! The state of an issuer: its keys, its clients, its tokens, and the answers that a test has prepared.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};

use crate::{ClientAuth, Clock};

use super::{
    super::{Answer, ReceivedRequest},
    TestIssuer,
    token::Key,
};

/// The client of what a test has issued without a request, which every client may use.
pub(super) const ANY_CLIENT: &str = "test";
pub(super) const CODE_LIFETIME: Duration = Duration::from_secs(60);

pub(super) struct State {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lifetime: Duration,
    /// The first one signs.
    pub(super) keys: Vec<Key>,
    /// Every client is admitted if there are none.
    pub(super) clients: Vec<ClientAuth>,
    /// Every resource is known if there are none.
    pub(super) resources: Vec<String>,
    pub(super) trusted: Vec<TestIssuer>,
    /// Opaque tokens and refresh tokens.
    pub(super) kept: HashMap<String, Kept>,
    pub(super) codes: HashMap<String, Code>,
    pub(super) grants: Vec<Grant>,
    /// JWTs that are no longer good here, although their signature and their time are.
    pub(super) revoked: HashSet<String>,
    pub(super) next: BTreeMap<String, VecDeque<Answer>>,
    pub(super) is_down: bool,
    /// Proofs must have it, if there is one.
    #[cfg(feature = "dpop")]
    pub(super) dpop_nonce: Option<String>,
    #[cfg(feature = "dpop")]
    pub(super) used_proofs: HashSet<[u8; 32]>,
    pub(super) requests: Vec<ReceivedRequest>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Access,
    Refresh,
}

/// An opaque token.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) kind: Kind,
    pub(super) claims: Map<String, Value>,
    pub(super) grant: Option<usize>,
    pub(super) is_spent: bool,
}

/// A login of a user.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) subject: String,
    /// Refresh tokens of no client are good for all of them.
    pub(super) client_id: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) nonce: Option<String>,
    /// The key that the code is bound to (RFC 9449 §10).
    pub(super) dpop_jkt: Option<String>,
    pub(super) is_revoked: bool,
}

impl Grant {
    pub(super) fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.iter().flat_map(|scope| scope.split(' '))
    }

    pub(super) fn is_of_another(&self, client: &str) -> bool {
        self.client_id.as_ref().is_some_and(|own| own != client)
    }

    /// A token for a resource has no scopes of OpenID Connect.
    pub(super) fn access_scope(&self) -> Option<String> {
        if self.resource.is_none() {
            return self.scope.clone();
        }
        let openid = ["openid", "offline_access", "profile", "email"];
        let scopes = self.scopes().filter(|scope| !openid.contains(scope));
        Some(scopes.collect::<Vec<_>>().join(" "))
    }
}

pub(super) struct Code {
    pub(super) grant: usize,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) expires_at: SystemTime,
    pub(super) is_spent: bool,
}

impl State {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            lifetime: Duration::from_secs(3600),
            keys: vec![Key::new()],
            clients: Vec::new(),
            resources: Vec::new(),
            trusted: Vec::new(),
            kept: HashMap::new(),
            codes: HashMap::new(),
            grants: Vec::new(),
            revoked: HashSet::new(),
            next: BTreeMap::new(),
            is_down: false,
            #[cfg(feature = "dpop")]
            dpop_nonce: None,
            #[cfg(feature = "dpop")]
            used_proofs: HashSet::new(),
            requests: Vec::new(),
        }
    }

    pub(super) fn is_revoked(&self, grant: Option<usize>) -> bool {
        let grant = grant.and_then(|grant| self.grants.get(grant));
        grant.is_some_and(|grant| grant.is_revoked)
    }

    pub(super) fn revoke_grant(&mut self, grant: Option<usize>) {
        if let Some(grant) = grant.and_then(|grant| self.grants.get_mut(grant)) {
            grant.is_revoked = true;
        }
    }
}
