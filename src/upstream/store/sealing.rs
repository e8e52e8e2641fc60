use std::time::{Duration, SystemTime};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::UpstreamToken,
    secret::{AccessToken, Secret},
    upstream::OwnerKey,
    wiped::Wiped,
};

use super::{
    ProviderTokens, Version,
    sealing_key::{SealingKey, open_with},
};

const FORMAT: u8 = 1;
const UNKNOWN_TIME: u64 = u64::MAX;

/// Where sealed tokens belong. They open nowhere else.
pub(super) struct Place<'a> {
    pub(super) owner: OwnerKey,
    pub(super) provider: &'a str,
    pub(super) version: Version,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let (version, owner) = (self.version.to_bytes(), self.owner.to_bytes());
        [&[FORMAT], &version[..], &owner, self.provider.as_bytes()].concat()
    }
}

/// Seals tokens for `place`: the format, a random nonce, the ciphertext with its tag.
pub(super) fn seal(
    tokens: &ProviderTokens,
    place: &Place<'_>,
    key: &SealingKey,
) -> Result<Vec<u8>, AuthError> {
    let [nonce, ciphertext, tag] = key.seal_with(&place.associated_data(), encode(tokens))?;
    Ok([&[FORMAT], &nonce[..], &ciphertext, &tag].concat())
}

/// Opens what was sealed for `place` with any of `keys`, in the buffer that it came in.
pub(super) fn open(
    sealed: &mut [u8],
    place: &Place<'_>,
    keys: &[SealingKey],
) -> Result<ProviderTokens, AuthError> {
    let tokens = sealed
        .split_first_mut()
        .filter(|(format, _)| **format == FORMAT)
        .and_then(|(_, sealed)| open_with(keys, &place.associated_data(), sealed, decode));
    tokens.ok_or_else(|| {
        AuthError::new(
            AuthErrorKind::Configuration,
            "the stored tokens cannot be opened with any of the sealing keys: a key is missing from the ring, or they \
             were tampered with; they were left as they are",
        )
        .with_provider(place.provider)
    })
}

fn encode(tokens: &ProviderTokens) -> Wiped<Vec<u8>> {
    let token = tokens.token();
    let of_access_token = token.dpop_thumbprint();
    let of_refresh_token = tokens
        .refresh_thumbprint()
        .filter(|_| of_access_token.is_none());
    // Rows without a thumbprint are as they were before there was one.
    let texts = [
        Some(token.access_token().expose()),
        Some(token.id_token().map_or("", Secret::expose)),
        Some(tokens.refresh_token().map_or("", Secret::expose)),
        of_access_token.or(of_refresh_token.map(|_| "")),
        of_refresh_token,
    ];
    let texts = || texts.iter().flatten();
    let times = [Some(tokens.issued_at()), token.expires_at()];
    let length = texts().map(|text| 4 + text.len()).sum::<usize>() + 8 * times.len();
    // Large enough at once: what a `Vec` leaves behind when it grows is not wiped.
    let mut bytes = Wiped::new(Vec::with_capacity(length));
    for time in times {
        bytes.extend(time.map_or(UNKNOWN_TIME, since_epoch).to_be_bytes());
    }
    for text in texts() {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<ProviderTokens> {
    let mut rest = bytes;
    let issued_at = take_time(&mut rest)?;
    let expires_at = take_time(&mut rest)?;
    let access_token = AccessToken::from_bytes(take_bytes(&mut rest)?).ok()?;
    let id_token = take_text(&mut rest)?;
    let refresh_token = take_text(&mut rest)?;
    let mut take_thumbprint = || match rest.is_empty() {
        true => Some(None),
        false => take_text(&mut rest).map(Some),
    };
    let of_access_token = take_thumbprint()?;
    let of_refresh_token = take_thumbprint()?;
    // A later version may have more, which must not be lost when the row is written again.
    rest.is_empty().then_some(())?;

    let mut token = UpstreamToken::new(access_token);
    if let Some(expires_at) = expires_at {
        token = token.with_expires_at(expires_at);
    }
    if let Some(thumbprint) = of_access_token.filter(|_| of_refresh_token.is_none()) {
        token = token.with_dpop_thumbprint(thumbprint);
    }
    if let Ok(id_token) = Secret::new(id_token) {
        token = token.with_id_token(id_token);
    }
    let mut tokens = ProviderTokens::new(token, issued_at?);
    if let Ok(refresh_token) = Secret::new(refresh_token) {
        tokens = tokens.with_refresh_token(refresh_token);
    }
    Some(match of_refresh_token {
        Some(thumbprint) => tokens.with_refresh_thumbprint(thumbprint),
        None => tokens,
    })
}

fn take_time(rest: &mut &[u8]) -> Option<Option<SystemTime>> {
    let milliseconds = u64::from_be_bytes(take_chunk(rest)?);
    if milliseconds == UNKNOWN_TIME {
        return Some(None);
    }
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(milliseconds))
        .map(Some)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_bytes(rest)?).ok()
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(take_chunk(rest)?);
    let (bytes, after) = rest.split_at_checked(length as usize)?;
    *rest = after;
    Some(bytes)
}

fn take_chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*chunk)
}

/// In milliseconds, cut off: a token never seems to last longer than it does.
fn since_epoch(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(UNKNOWN_TIME - 1)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn no_token_is_left_behind_in_memory_by_a_vector_that_grew() {
        let token = UpstreamToken::new(AccessToken::new("access").unwrap())
            .with_id_token(Secret::new("id").unwrap());
        let tokens = ProviderTokens::new(token, SystemTime::UNIX_EPOCH)
            .with_refresh_token(Secret::new("refresh").unwrap());
        let encoded = encode(&tokens);
        assert_eq!(encoded.capacity(), encoded.len());
    }

    #[test]
    fn a_row_that_another_implementation_sealed_is_opened() {
        // By `AESGCMSIV` of Python's cryptography. All rows that are stored have this format.
        let sealed = "AQkJCQkJCQkJCQkJCZgqUVgG4hMgtOjZU1MApiUFKO-9F-06rbkoSq2kaJuYf7sPOLM0rUDlr3jghwSwN_2wgL-wYmVpaQ";
        let sealed = URL_SAFE_NO_PAD.decode(sealed).unwrap();
        let place = |provider| Place {
            owner: OwnerKey::from_bytes([3; 32]),
            provider,
            version: Version::from_bytes([5; 16]),
        };
        let keys = [SealingKey::new([7; 32])];
        let tokens = open(&mut sealed.clone(), &place("github"), &keys).unwrap();
        assert_eq!(tokens.token().access_token().expose(), "access");
        assert_eq!(tokens.refresh_token().unwrap().expose(), "refresh");
        assert!(open(&mut sealed.clone(), &place("google"), &keys).is_err());
    }

    #[test]
    fn a_row_whose_token_is_no_text_is_not_opened() {
        let token = UpstreamToken::new(AccessToken::new("access").unwrap());
        let tokens = ProviderTokens::new(token, SystemTime::UNIX_EPOCH);
        let tokens = tokens.with_refresh_token(Secret::new("refresh").unwrap());
        let encoded = encode(&tokens);
        for text in ["access", "refresh"] {
            let mut at = encoded.windows(text.len());
            let at = at.position(|bytes| bytes == text.as_bytes()).unwrap();
            let mut encoded = encoded.to_vec();
            encoded[at] = 0xff;
            assert!(decode(&encoded).is_none(), "{text}");
        }
    }

    #[test]
    fn a_row_from_before_there_was_a_thumbprint_is_read_and_written_as_it_was() {
        let old = [
            &1_750_000_000_123_u64.to_be_bytes()[..],
            &UNKNOWN_TIME.to_be_bytes(),
            &6_u32.to_be_bytes(),
            b"access",
            &0_u32.to_be_bytes(),
            &7_u32.to_be_bytes(),
            b"refresh",
        ];
        let old = old.concat();
        let tokens = decode(&old).unwrap();
        assert_eq!(tokens.token().dpop_thumbprint(), None);
        assert_eq!(*encode(&tokens), old);
    }

    #[test]
    fn a_row_has_the_thumbprint_of_the_key_that_its_tokens_are_bound_to() {
        let token = UpstreamToken::new(AccessToken::new("access").unwrap());
        let token = token.with_dpop_thumbprint("thumbprint");
        let encoded = encode(&ProviderTokens::new(token, SystemTime::UNIX_EPOCH));
        assert_eq!(encoded.capacity(), encoded.len());
        let tokens = decode(&encoded).unwrap();
        assert_eq!(tokens.token().dpop_thumbprint(), Some("thumbprint"));
        for length in 1..=4 + "thumbprint".len() {
            let is_whole = length == 4 + "thumbprint".len();
            let cut = decode(&encoded[..encoded.len() - length]);
            assert_eq!(cut.is_some(), is_whole, "cut by {length}");
        }
    }

    #[test]
    fn a_row_has_the_thumbprint_of_the_key_that_the_refresh_token_alone_is_bound_to() {
        let token = UpstreamToken::new(AccessToken::new("access").unwrap());
        let tokens = ProviderTokens::new(token, SystemTime::UNIX_EPOCH)
            .with_refresh_token(Secret::new("refresh").unwrap())
            .with_refresh_thumbprint("thumbprint");
        let encoded = encode(&tokens);
        assert_eq!(encoded.capacity(), encoded.len());
        let tokens = decode(&encoded).unwrap();
        assert_eq!(tokens.token().dpop_thumbprint(), None);
        assert_eq!(tokens.refresh_thumbprint(), Some("thumbprint"));
        for length in 1..4 + "thumbprint".len() {
            let cut = decode(&encoded[..encoded.len() - length]);
            assert!(cut.is_none(), "cut by {length}");
        }
    }

    #[test]
    fn a_row_of_a_later_version_is_not_opened_without_what_that_added() {
        let token = UpstreamToken::new(AccessToken::new("access").unwrap());
        let tokens = ProviderTokens::new(token, SystemTime::UNIX_EPOCH);
        let mut encoded = encode(&tokens.with_refresh_thumbprint("thumbprint"));
        encoded.push(0);
        assert!(decode(&encoded).is_none());
    }

    #[test]
    fn a_time_that_is_too_far_ahead_is_not_an_unknown_one() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 62);
        assert_ne!(since_epoch(far), UNKNOWN_TIME);
    }
}
