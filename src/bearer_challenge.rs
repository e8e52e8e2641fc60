use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// The parameters that this crate knows of a `Bearer` challenge (RFC 6750 §3, RFC 9728 §5.1), or of one for tokens that are
/// bound to a key (`DPoP`, RFC 9449 §7.1).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BearerChallenge {
    pub(crate) error: Option<String>,
    pub(crate) scope: Option<String>,
    pub(crate) resource_metadata: Option<String>,
}

impl BearerChallenge {
    /// Reads the challenges of a response (RFC 9110 §11.6.1): several in one header, or in several headers, of any scheme.
    ///
    /// One with an error counts before one without, then `Bearer` before `DPoP`, then the first. Commas may be missing. A
    /// parameter that is not readable is left out, and of two with the same name the first one counts.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        Self::read_sorted(headers, |scheme| scheme)
    }

    /// The same for the answer to a token that is bound to a key, with `DPoP` before `Bearer`.
    #[cfg(feature = "token-exchange")]
    pub(crate) fn read_dpop_first(headers: &HeaderMap) -> Option<Self> {
        Self::read_sorted(headers, std::cmp::Reverse)
    }

    fn read_sorted<K: Ord>(headers: &HeaderMap, place: impl Fn(Scheme) -> K) -> Option<Self> {
        let mut challenges: Vec<_> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .flat_map(|value| Self::read_all(value.as_bytes()))
            .collect();
        challenges.sort_by_key(|(scheme, challenge)| (challenge.error.is_none(), place(*scheme)));
        let (_, first) = challenges.into_iter().next()?;
        Some(first)
    }

    /// Whether the error is about the proof, and not about the token (RFC 9449 §7.1 and §9).
    pub(crate) fn is_about_proof(&self) -> bool {
        let error = self.error.as_deref();
        matches!(error, Some("use_dpop_nonce" | "invalid_dpop_proof"))
    }

    fn read_all(header: &[u8]) -> Vec<(Scheme, Self)> {
        let mut challenges = Vec::new();
        let mut is_known = false;
        let mut rest = header;
        while let Some(part) = next_part(&mut rest) {
            match part {
                Part::Scheme(scheme) => {
                    let scheme = Scheme::of(scheme);
                    is_known = scheme.is_some();
                    challenges.extend(scheme.map(|scheme| (scheme, Self::default())));
                }
                Part::Parameter(name, value) => {
                    if is_known && let Some((_, challenge)) = challenges.last_mut() {
                        challenge.set(name, value);
                    }
                }
            }
        }
        challenges
    }

    fn set(&mut self, name: &[u8], value: Vec<u8>) {
        let known: [(&[u8], _); 3] = [
            (b"error", &mut self.error),
            (b"scope", &mut self.scope),
            (b"resource_metadata", &mut self.resource_metadata),
        ];
        let slot = known
            .into_iter()
            .find(|(known, _)| name.eq_ignore_ascii_case(known));
        if let Some((_, slot)) = slot
            && slot.is_none()
            && let Ok(value) = String::from_utf8(value)
            && !value.is_empty()
            && value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        {
            *slot = Some(value);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scheme {
    Bearer,
    Dpop,
}

impl Scheme {
    fn of(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"bearer") {
            Some(Self::Bearer)
        } else if name.eq_ignore_ascii_case(b"dpop") {
            Some(Self::Dpop)
        } else {
            None
        }
    }
}

enum Part<'a> {
    /// The name of a scheme, or the token68 that follows one.
    Scheme(&'a [u8]),
    Parameter(&'a [u8], Vec<u8>),
}

fn next_part<'a>(rest: &mut &'a [u8]) -> Option<Part<'a>> {
    loop {
        take_while(rest, |byte| matches!(byte, b' ' | b'\t' | b','));
        match rest.first()? {
            // A value without a name.
            b'"' => _ = quoted(rest)?,
            byte if is_of_token(*byte) => break,
            _ => skip(rest),
        }
    }
    let name = take_while(rest, is_of_token);
    let mut behind = *rest;
    take_while(&mut behind, is_space);
    if behind.first() != Some(&b'=') {
        return Some(Part::Scheme(name));
    }
    skip(&mut behind);
    take_while(&mut behind, is_space);
    let value = match behind.first() {
        Some(b'"') => quoted(&mut behind)?,
        // The padding of a token68.
        Some(b'=' | b',') | None => Vec::new(),
        Some(_) => take_while(&mut behind, |byte| {
            !matches!(byte, b' ' | b'\t' | b',' | b'"')
        })
        .to_vec(),
    };
    *rest = behind;
    Some(Part::Parameter(name, value))
}

/// Reads a quoted string (RFC 9110 §5.6.4). Returns `None` if it does not end.
fn quoted(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    skip(rest);
    loop {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        match byte {
            b'"' => return Some(value),
            b'\\' => {
                value.push(*rest.first()?);
                skip(rest);
            }
            byte => value.push(*byte),
        }
    }
}

fn take_while<'a>(rest: &mut &'a [u8], is_part: impl Fn(u8) -> bool) -> &'a [u8] {
    let end = rest.iter().position(|byte| !is_part(*byte));
    let (taken, behind) = rest.split_at(end.unwrap_or(rest.len()));
    *rest = behind;
    taken
}

fn skip(rest: &mut &[u8]) {
    *rest = rest.split_first().map_or(&[], |(_, behind)| behind);
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A token (RFC 9110 §5.6.2), or a token68 without its padding (§11.2).
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::{
        collection::vec,
        prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
    };

    use super::*;

    fn read(challenges: &[&str]) -> Option<BearerChallenge> {
        let mut headers = HeaderMap::new();
        for challenge in challenges {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
        }
        BearerChallenge::read(&headers)
    }

    fn scope(challenge: &str) -> Option<String> {
        read(&[challenge])?.scope
    }

    #[test]
    fn the_scope_is_found_wherever_it_stands() {
        for challenge in [
            r#"Bearer scope="files:read files:write""#,
            r#"bearer  scope = "files:read files:write""#,
            r#"Bearer realm="mcp", error="insufficient_scope", scope="files:read files:write""#,
            r#"Bearer realm="mcp" error="insufficient_scope" scope="files:read files:write""#,
            r#"Bearer realm="a, \"b\", scope=x", Scope = "files:read files:write""#,
            r#"Bearer realm="\", scope=x, y", scope="files:read files:write""#,
            r#"Basic realm="old", Bearer scope="files:read files:write", error="insufficient_scope""#,
            r#"Basic realm="old" Bearer scope="files:read files:write""#,
            r#"Negotiate YWJj==, Bearer scope="files:read files:write""#,
            r#"Negotiate YWJj= , Bearer scope="files:read files:write""#,
            r#"Negotiate, Bearer,, scope="files:read files:write", scope="second""#,
            r#"Bearer, Bearer error="insufficient_scope", scope="files:read files:write""#,
            "Bearer scope=\"files:read\tfiles:write\", scope=\"files:read files:write\"",
        ] {
            assert_eq!(
                scope(challenge).as_deref(),
                Some("files:read files:write"),
                "{challenge}"
            );
        }
        assert_eq!(scope("Bearer scope=read").as_deref(), Some("read"));
        assert_eq!(scope("Bearer scope=a:b/c,x=y").as_deref(), Some("a:b/c"));
    }

    #[test]
    fn a_challenge_without_a_scope_has_none() {
        for challenge in [
            "Bearer",
            r#"Bearer error_description="ask for scope=admin""#,
            r#"Bearer scope="""#,
            r#"Bearer myscope="x""#,
            r#"Bearer error="unterminated, scope=x"#,
            r#"Bearer scope="unterminated"#,
            r#"Bearer, Basic scope="x""#,
            r#"Bearer, DPoP scope="x", algs="ES256""#,
            r#"Bearer error="a", Basic realm="x", scope="y""#,
        ] {
            assert_eq!(scope(challenge), None, "{challenge}");
        }
        assert_eq!(read(&[r#"Basic scope="x""#]), None);
    }

    #[test]
    fn a_dpop_challenge_counts_where_no_bearer_challenge_says_more() {
        let error = |challenge: &str| read(&[challenge]).unwrap().error;
        for challenge in [
            r#"DPoP error="invalid_token", algs="ES256""#,
            r#"dpop algs="ES256", error="invalid_token""#,
            r#"Bearer, DPoP error="invalid_token""#,
            r#"Bearer realm="x", DPoP algs="ES256" error="invalid_token""#,
            r#"DPoP error="use_dpop_nonce", Bearer error="invalid_token""#,
        ] {
            assert_eq!(
                error(challenge).as_deref(),
                Some("invalid_token"),
                "{challenge}"
            );
        }
        let scope = r#"DPoP error="insufficient_scope", scope="a b", algs="ES256""#;
        assert_eq!(self::scope(scope).as_deref(), Some("a b"));
        assert_eq!(
            self::scope(r#"DPoP algs="ES256", scope="a""#).as_deref(),
            Some("a")
        );
        for (code, is_about_proof) in [
            ("use_dpop_nonce", true),
            ("invalid_dpop_proof", true),
            ("invalid_token", false),
        ] {
            let challenge = read(&[&format!(r#"DPoP error="{code}""#)]).unwrap();
            assert_eq!(challenge.is_about_proof(), is_about_proof, "{code}");
        }
        assert!(!read(&["DPoP"]).unwrap().is_about_proof());
    }

    #[test]
    fn the_bearer_challenge_with_an_error_counts_in_whatever_header_it_is() {
        let challenge = read(&[
            r#"Basic realm="old", error="x""#,
            r#"Bearer scope="first""#,
            r#"DPoP error="y", Bearer error="insufficient_scope", scope="second",
                resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource""#
                .replace('\n', " ")
                .as_str(),
            r#"Bearer error="invalid_token""#,
        ]);
        let challenge = challenge.unwrap();
        assert_eq!(challenge.error.as_deref(), Some("insufficient_scope"));
        assert_eq!(challenge.scope.as_deref(), Some("second"));
        let metadata = "https://mcp.example.com/.well-known/oauth-protected-resource";
        assert_eq!(challenge.resource_metadata.as_deref(), Some(metadata));
    }

    fn separator() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just(", "), Just(" "), Just(","), Just(" ,, "), Just("\t")]
    }

    fn other() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("Basic realm=\"scope=x, Bearer scope=\\\"y\\\"\""),
            Just("Negotiate YWJj/+=="),
            Just("Negotiate"),
            Just("DPoP algs=\"ES256\", scope=\"no\", error=\"no\""),
        ]
    }

    fn quote(value: &str) -> String {
        format!("\"{}\"", value.replace('\\', r"\\").replace('"', r#"\""#))
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(header in vec(any::<u8>(), 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&header) {
                let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]);
                if let Some(read) = BearerChallenge::read(&headers) {
                    for value in [read.error, read.scope, read.resource_metadata].into_iter().flatten() {
                        prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                    }
                }
            }
        }

        #[test]
        fn f85_the_scope_is_that_of_the_bearer_challenge_among_any_others(
            scope in "[!-~]([ !-~]{0,20}[!-~])?",
            before in vec(other(), 0..3),
            after in vec(other(), 0..3),
            separators in vec(separator(), 8),
            in_one_header in any::<bool>(),
        ) {
            let mut separators = separators.into_iter();
            let mut comma = || separators.next().unwrap();
            let bearer = format!(
                "Bearer realm=\"x\"{}scope={}{}error=\"insufficient_scope\"",
                comma(), quote(&scope), comma()
            );
            let mut headers = HeaderMap::new();
            let all = before.into_iter().chain([&*bearer]).chain(after);
            if in_one_header {
                let one: String = all.flat_map(|challenge| [challenge, comma()]).collect();
                headers.append(WWW_AUTHENTICATE, HeaderValue::try_from(one).unwrap());
            } else {
                for one in all {
                    headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(one).unwrap());
                }
            }
            let read = BearerChallenge::read(&headers).unwrap();
            prop_assert_eq!(read.scope, Some(scope));
            prop_assert_eq!(read.error.as_deref(), Some("insufficient_scope"));
        }
    }

    #[test]
    fn a_challenge_of_64_kib_is_read_in_one_go() {
        let long = format!("Bearer {}scope=\"x\"", "a=b ".repeat(16 * 1024));
        assert_eq!(scope(&long).as_deref(), Some("x"));
        let many = "Bearer,".repeat(8 * 1024);
        assert_eq!(read(&[&many]), Some(BearerChallenge::default()));
    }
}
