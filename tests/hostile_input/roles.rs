//! Role mappings of the strategies for AWS: what an operator writes as an expression or a role, and what a user claims.

use std::{cell::RefCell, fmt::Write as _};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Map, Value};
use tower_identity::{AccessToken, AuthErrorKind, AwsSts, Identity, RoleMapping, Strategy};

use crate::harness::{
    self, Peer, assert_is_well_formed, assert_names_settings, assert_shows_nothing_of, shown,
    split, wait,
};

const DEFAULT_ROLE: &str = "arn:aws:iam::123456789012:role/Default";

/// An expression of an operator, and claims to evaluate it for.
pub(crate) fn check_expression(input: &[u8]) {
    let (expression, claims) = split(input);
    let Ok(expression) = std::str::from_utf8(expression) else {
        return;
    };
    let mapping = RoleMapping::matcher(expression, role("Matched"));
    let strategy = builder(sts()).role_mapping(mapping).build();
    match strategy {
        Ok(strategy) => {
            assert!(expression.len() <= 1024);
            let claims = serde_json::from_slice(claims).unwrap_or_default();
            let first = chosen_role(&strategy, &claims);
            assert_eq!(
                chosen_role(&strategy, &claims),
                first,
                "it is a matter of chance"
            );
        }
        Err(error) => {
            assert_names_settings(&error);
        }
    }
}

type Meaning = fn(&Map<String, Value>) -> bool;

/// Expressions whose meaning is known, and what it is.
const EXPRESSIONS: [(&str, Meaning); 8] = [
    (r#""admins" in claims["groups"]"#, |claims| {
        match &claims["groups"] {
            Value::Array(groups) => groups.iter().any(|group| group == "admins"),
            Value::Object(groups) => groups.contains_key("admins"),
            _ => false,
        }
    }),
    (r#"claims.sub.startsWith("svc-")"#, |claims| {
        claims["sub"]
            .as_str()
            .is_some_and(|subject| subject.starts_with("svc-"))
    }),
    (
        r#"claims["roles"].exists(role, role == "admin")"#,
        |claims| match &claims["roles"] {
            Value::Array(roles) => roles.iter().any(|role| role == "admin"),
            Value::Object(roles) => roles.contains_key("admin"),
            _ => false,
        },
    ),
    ("claims.level > 3", |claims| {
        claims["level"].as_f64().is_some_and(|level| level > 3.0)
    }),
    (
        r#"claims.email.matches("^[a-z]+@example\\.com$")"#,
        |claims| {
            let name = claims["email"]
                .as_str()
                .and_then(|email| email.strip_suffix("@example.com"));
            name.is_some_and(|name| {
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase())
            })
        },
    ),
    (
        r#"has(claims.act) && claims.act.sub == "agent""#,
        |claims| claims["act"]["sub"] == "agent",
    ),
    (
        r#"size(claims.groups) == 2 && claims.groups[1] == "b""#,
        |claims| {
            let groups = claims["groups"].as_array();
            groups.is_some_and(|groups| groups.len() == 2 && groups[1] == "b")
        },
    ),
    (r#"claims.verified == true"#, |claims| {
        claims["verified"] == true
    }),
];

/// Claims of a user, for expressions that are right.
pub(crate) fn check_claims(input: &[u8]) {
    thread_local! {
        static STRATEGY: RefCell<AwsSts> = RefCell::new(known_expressions());
    }
    let Ok(claims) = serde_json::from_slice::<Map<String, Value>>(input) else {
        return;
    };
    // Of a strategy of its own each time, the expressions would be compiled each time.
    let role = STRATEGY.with_borrow(|strategy| chosen_role(strategy, &claims));
    let mut looked_at = claims.clone();
    for name in [
        "groups", "sub", "roles", "level", "email", "act", "verified",
    ] {
        looked_at.entry(name).or_insert(Value::Null);
    }
    match role {
        Ok(role) if role == DEFAULT_ROLE => {}
        Ok(role) => {
            let number: usize = role.rsplit('-').next().unwrap().parse().unwrap();
            let (expression, applies) = EXPRESSIONS[number];
            assert!(applies(&looked_at), "`{expression}` is true of {claims:?}");
        }
        Err(AuthErrorKind::Expired) => assert!(claims.contains_key("exp")),
        Err(AuthErrorKind::Rejected | AuthErrorKind::Configuration) => {}
        Err(kind) => panic!("{kind:?}"),
    }
}

/// A text as the ARN of a role, the name of a session, a region, a service, and the names of claims.
pub(crate) fn check_names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let outcome = AwsSts::builder("eu-west-1", sts())
        .fallback_role(text)
        .build();
    assert_eq!(outcome.is_ok(), is_role(text), "{text:?}");
    let outcomes = [
        outcome,
        AwsSts::builder(text, sts())
            .fallback_role(DEFAULT_ROLE)
            .build(),
        builder(sts())
            .fallback_role(DEFAULT_ROLE)
            .service(text)
            .build(),
        builder(sts())
            .fallback_role(DEFAULT_ROLE)
            .role_claim(text)
            .build(),
        builder(sts())
            .fallback_role(DEFAULT_ROLE)
            .session_name_claim(text)
            .build(),
        builder(sts())
            .fallback_role(DEFAULT_ROLE)
            .sts_endpoint(text)
            .build(),
    ];
    for outcome in outcomes {
        match outcome {
            Ok(strategy) => {
                let claims = Map::from_iter([(text.to_owned(), Value::from("user-1"))]);
                let _ = chosen_role(&strategy, &claims);
            }
            Err(error) => {
                assert_names_settings(&error);
            }
        }
    }
    check_session_name(text);
}

fn check_session_name(subject: &str) {
    let Ok(identity) = Identity::builder(subject)
        .token(AccessToken::new("of-the-user").unwrap())
        .build()
    else {
        return;
    };
    let exact = builder(sts()).fallback_role(DEFAULT_ROLE);
    let replaced = builder(sts())
        .fallback_role(DEFAULT_ROLE)
        .replace_unfit_session_names();
    let exact = session_name(&exact.build().unwrap(), &identity);
    let replaced = session_name(&replaced.build().unwrap(), &identity).unwrap();
    assert!(is_session_name(&replaced), "{replaced:?}");
    match exact {
        Some(name) => {
            assert_eq!(name, subject);
            assert_eq!(name, replaced, "it fits, and is not replaced");
        }
        None => assert!(!is_session_name(subject)),
    }
}

/// The role that was asked for. STS gives credentials for it, whose session token is the role and the session's name.
fn chosen_role(strategy: &AwsSts, claims: &Map<String, Value>) -> Result<String, AuthErrorKind> {
    let subject = claims.get("sub").and_then(Value::as_str);
    let subject = subject.filter(|subject| !subject.trim().is_empty());
    let identity = Identity::builder(subject.unwrap_or("user-1"))
        .token(AccessToken::new("of-the-user").unwrap())
        .claims(claims.clone())
        .build()
        .unwrap();
    session(strategy, &identity).map(|(role, _)| role)
}

fn session_name(strategy: &AwsSts, identity: &Identity) -> Option<String> {
    session(strategy, identity).ok().map(|(_, name)| name)
}

fn session(strategy: &AwsSts, identity: &Identity) -> Result<(String, String), AuthErrorKind> {
    let mut request = Request::post("https://mcp.eu-west-1.api.aws/mcp")
        .body(Full::<Bytes>::default())
        .unwrap();
    request.extensions_mut().insert(identity.clone());
    match wait(strategy.authenticate(&mut request).complete(request)) {
        Ok(request) => {
            let session = request.headers()["x-amz-security-token"].to_str().unwrap();
            let (role, name) = session.split_once("|").unwrap();
            Ok((role.to_owned(), name.to_owned()))
        }
        Err(error) => {
            assert_is_well_formed(&error);
            let claims = Value::from(identity.claims().clone()).to_string();
            assert_shows_nothing_of(claims.as_bytes(), &shown(&error), &[DEFAULT_ROLE]);
            Err(error.kind())
        }
    }
}

fn builder<F>(sts: Peer<F>) -> tower_identity::strategy::AwsStsBuilder
where
    F: Fn(&Request<Full<Bytes>>) -> Response<Bytes> + Clone + Send + Sync + 'static,
{
    AwsSts::builder("eu-west-1", sts).clock(harness::clock())
}

fn known_expressions() -> AwsSts {
    let mut strategy = builder(sts())
        .fallback_role(DEFAULT_ROLE)
        .fallback_after_failed_matcher()
        .replace_unfit_session_names();
    for (number, (expression, _)) in EXPRESSIONS.iter().enumerate() {
        let role = role(&format!("Of-{number}"));
        strategy = strategy.role_mapping(RoleMapping::matcher(*expression, role));
    }
    strategy.build().unwrap()
}

fn role(name: &str) -> String {
    format!("arn:aws:iam::123456789012:role/{name}")
}

/// AWS STS: it gives everybody what they ask for.
fn sts() -> Peer<impl Fn(&Request<Full<Bytes>>) -> Response<Bytes> + Clone + Send + Sync + 'static>
{
    Peer::new(|request| {
        let form = harness::in_memory(request.body().clone());
        let form = String::from_utf8(form.to_vec()).unwrap();
        let parameter = |name: &str| {
            let value = form
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            decoded(value.unwrap())
        };
        let (role, name) = (parameter("RoleArn"), parameter("RoleSessionName"));
        Response::new(Bytes::from(format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>ASIA0000000000000000</AccessKeyId><SecretAccessKey>hush</SecretAccessKey>\
             <SessionToken>{}|{}</SessionToken><Expiration>2033-05-18T04:33:20Z</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            in_xml(&role),
            in_xml(&name),
        )))
    })
}

/// Out of a form (RFC 3986 §2.1).
fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'%' => {
                let digits = std::str::from_utf8(&behind[..2]).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &behind[2..];
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn in_xml(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        write!(escaped, "&#{};", u32::from(character)).unwrap();
        escaped
    })
}

/// IAM User Guide, "IAM identifiers", as one looks at it by hand.
fn is_role(arn: &str) -> bool {
    let Some((partition, rest)) = arn
        .strip_prefix("arn:")
        .and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    let Some((account, role)) = rest
        .strip_prefix("iam::")
        .and_then(|rest| rest.split_once(":role/"))
    else {
        return false;
    };
    let (path, name) = role.rsplit_once('/').unwrap_or(("", role));
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    partition.split('-').all(is_word)
        && (partition == "aws" || partition.starts_with("aws-"))
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && !role.starts_with('/')
        && (path.is_empty() || "/".len() + path.len() + "/".len() <= 512)
        && path.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
        && (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
}

fn is_session_name(name: &str) -> bool {
    (2..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
}
