use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::{
    error::{AuthError, AuthErrorKind},
    upstream::store::sealing_key::{SealingKey, open_for},
};

const PURPOSE: &[u8] = b"tower-identity DPoP nonce";
/// A longer one is none of these.
const LONGEST: usize = 64;
/// By how much the clocks of replicas may differ.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// Issues nonces and knows them again (RFC 9449 §8, §9). It keeps none of them: a nonce is the time when it was made, sealed.
#[derive(Clone)]
pub(super) struct Nonces {
    /// The newest comes first.
    pub(super) keys: Vec<SealingKey>,
    pub(super) lifetime: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    /// It is good, and the caller should have the next one.
    Old,
    Refused,
}

impl Nonces {
    pub(super) fn issue(&self, now: SystemTime) -> Result<HeaderValue, AuthError> {
        let cannot = || AuthError::new(AuthErrorKind::Configuration, "no DPoP nonce can be made");
        let key = self.keys.first().ok_or_else(cannot)?;
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let made_at = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let sealed = key.seal_for(&[PURPOSE], &made_at.to_be_bytes())?;
        HeaderValue::try_from(sealed).map_err(|_| cannot())
    }

    pub(super) fn freshness(&self, nonce: &str, now: SystemTime) -> Freshness {
        let Some(made_at) = self.made_at(nonce) else {
            return Freshness::Refused;
        };
        match now.duration_since(made_at) {
            Ok(age) if age < self.lifetime / 2 => Freshness::Fresh,
            Ok(age) if age < self.lifetime => Freshness::Old,
            Ok(_) => Freshness::Refused,
            Err(ahead) if ahead.duration() <= CLOCK_DIFFERENCE => Freshness::Fresh,
            Err(_) => Freshness::Refused,
        }
    }

    fn made_at(&self, nonce: &str) -> Option<SystemTime> {
        if nonce.len() > LONGEST {
            return None;
        }
        let opened = open_for(&self.keys, &[PURPOSE], nonce)?;
        let made_at = u64::from_be_bytes(opened.as_slice().try_into().ok()?);
        UNIX_EPOCH.checked_add(Duration::from_millis(made_at))
    }
}
