//! Errors of construction: each builder names every wrong setting, all of them at once, and never shows a value.
#![cfg(all(
    feature = "aws-sts",
    feature = "config",
    feature = "private-key-jwt",
    feature = "redis"
))]

use std::{error::Error, fmt::Debug, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use tower::util::BoxCloneSyncService;
use tower_identity::{
    AccessToken, AwsSts, BuildError, ClientAuth, ClientCredentials, CredentialCache,
    CrossAppAccess, HeaderForwardLayer, HeaderInjection, Identity, IntrospectionEndpoint, KeySet,
    MemoryStore, OnBehalfOf, Origin, RedisStore, RoleMapping, Secret, Subject, TokenEndpoint,
    TokenExchange, TokenValidator, UpstreamInject, UpstreamToken,
    config::Resources,
    oauth::{PrivateKeyJwt, SigningAlgorithm, TokenType},
    strategy_fn,
    upstream::{Provider, RefreshTokenGrant, SealingKey},
};

type Body = Full<Bytes>;
type Client = BoxCloneSyncService<Request<Body>, Response<Body>, std::convert::Infallible>;

/// In every setting that has a value, so that one which is shown is found.
const MARKER: &str = "s3cr3t-Xq7";

fn client() -> Client {
    BoxCloneSyncService::new(tower::service_fn(async |_: Request<Body>| {
        Ok(Response::default())
    }))
}

fn secret(text: &str) -> Secret {
    Secret::new(format!("{MARKER}{text}")).unwrap()
}

fn public_endpoint() -> TokenEndpoint {
    TokenEndpoint::builder("https://idp.example.com/token", client())
        .build()
        .unwrap()
}

fn confidential_endpoint() -> TokenEndpoint {
    TokenEndpoint::builder("https://idp.example.com/token", client())
        .client_auth(ClientAuth::basic("gateway", secret("")))
        .build()
        .unwrap()
}

fn token() -> UpstreamToken {
    UpstreamToken::new(AccessToken::new("gho_1").unwrap())
}

fn key_set() -> KeySet {
    let key = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    KeySet::from_json(format!(r#"{{"keys":[{key}]}}"#)).unwrap()
}

fn grant() -> RefreshTokenGrant {
    RefreshTokenGrant::new(public_endpoint())
}

fn own_strategy() -> impl tower_identity::Strategy<Body> + 'static {
    strategy_fn(async |request: Request<Body>| Ok(request))
}

/// A builder that is given the wrong values for several of its settings, and the settings that it names.
struct Case {
    type_name: &'static str,
    error: Option<BuildError>,
    settings: &'static [&'static str],
}

fn case<T>(
    type_name: &'static str,
    built: Result<T, BuildError>,
    settings: &'static [&'static str],
) -> Case {
    Case {
        type_name,
        error: built.err(),
        settings,
    }
}

fn cases() -> Vec<Case> {
    let origin = || Origin::try_from("https://mcp.example.com").unwrap();
    vec![
        case(
            "Identity",
            Identity::builder(" ")
                .issuer("")
                .upstream("github", token())
                .upstream("github", token())
                .upstream(" ", token())
                .build(),
            &["upstream[1]", "upstream[2]", "subject", "issuer"],
        ),
        case("UpstreamInject", UpstreamInject::new(" "), &["provider"]),
        case(
            "HeaderInjection",
            HeaderInjection::new("host", "a\nb"),
            &["name", "value"],
        ),
        case(
            "HeaderInjection",
            HeaderInjection::from_env("a b", "TOWER_IDENTITY_NOT_SET"),
            &["name", "variable"],
        ),
        case(
            "HeaderForwardLayer",
            HeaderForwardLayer::builder(origin())
                .header("x-a", "1")
                .header("cookie", " ")
                .capture("x-b")
                .capture("X-A")
                .build(),
            &["header[1].name", "header[1].value", "capture[1]"],
        ),
        case(
            "CredentialCache",
            CredentialCache::<u8>::builder()
                .capacity(0)
                .default_lifetime(Duration::ZERO)
                .build(),
            &["capacity", "default_lifetime"],
        ),
        case(
            "TokenEndpoint",
            TokenEndpoint::builder("idp.example.com", client())
                .client_auth(ClientAuth::none("gateway\u{feff}"))
                .time_limit(Duration::ZERO)
                .build(),
            &["url", "client_auth.client_id", "time_limit"],
        ),
        case(
            "PrivateKeyJwt",
            PrivateKeyJwt::builder(SigningAlgorithm::Es256, &secret("no key"))
                .key_id("")
                .audience(" ")
                .build(),
            &["pem", "key_id", "audience"],
        ),
        case(
            "TokenExchange",
            TokenExchange::builder(public_endpoint())
                .audience("")
                .resource("https://mcp.example.com/#a")
                .scopes(["a", "b c"])
                .requested_token_type(TokenType::IdToken)
                .subject(Subject::upstream(" "))
                .actor(tower_identity::Actor::user(Subject::upstream("")))
                .build(),
            &[
                "audience",
                "resource",
                "scopes[1]",
                "requested_token_type",
                "subject.provider",
                "actor.provider",
            ],
        ),
        case(
            "TokenExchange",
            TokenExchange::builder(confidential_endpoint())
                .audience("a")
                .audience(" ")
                .resource("mcp")
                .resource("urn:example:mcp")
                .scopes(["a"])
                .scopes(["b"])
                .build(),
            &["audience[1]", "resource[0]", "scopes"],
        ),
        case(
            "ClientCredentials",
            ClientCredentials::builder(public_endpoint())
                .scopes([""])
                .build(),
            &["scopes[0]", "endpoint.client_auth"],
        ),
        case(
            "OnBehalfOf",
            OnBehalfOf::builder(public_endpoint())
                .subject(Subject::upstream_id_token(""))
                .build(),
            &[
                "scopes",
                "subject",
                "subject.provider",
                "endpoint.client_auth",
            ],
        ),
        case(
            "CrossAppAccess",
            CrossAppAccess::builder("", public_endpoint(), public_endpoint())
                .issuer(" ")
                .resource("mcp")
                .scopes(["\""])
                .authorization_server_scopes(["read", "write all"])
                .build(),
            &[
                "provider",
                "audience",
                "issuer",
                "resource",
                "scopes[0]",
                "authorization_server_scopes[1]",
            ],
        ),
        case(
            "AwsSts",
            AwsSts::builder("EU WEST", client())
                .service("a b")
                .sts_endpoint("http://sts.example.com")
                .role_claim("")
                .session_name_claim(" ")
                .session_duration(Duration::from_secs(5))
                .subject(Subject::upstream(""))
                .role_mapping(RoleMapping::claim("a", "arn:aws:iam::123456789012:role/A"))
                .role_mapping(RoleMapping::claim(" ", "Admin").priority(1))
                .role_mapping(RoleMapping::matcher("claims[", "Admin"))
                .fallback_role("arn:aws:s3:::bucket")
                .build(),
            &[
                "region",
                "service",
                "session_name_claim",
                "subject.provider",
                "sts_endpoint",
                "session_duration",
                "role_claim",
                "role_mapping[1].claim",
                "role_mapping[1].role",
                "role_mapping[2].matcher",
                "role_mapping[2].role",
                "fallback_role",
            ],
        ),
        case(
            "AwsSts",
            AwsSts::builder("", client()).build(),
            &["region", "role_mapping"],
        ),
        case(
            "TokenValidator",
            TokenValidator::builder("http://issuer.example.com", client())
                .realm("a\nb")
                .scopes(["a b"])
                .resource("mcp")
                .build(),
            &["issuer", "audience", "realm", "scopes[0]", "resource"],
        ),
        case(
            "TokenValidator",
            TokenValidator::builder_with_keys(" ", key_set())
                .audience("a")
                .audience("")
                .build(),
            &["issuer", "audience[1]"],
        ),
        case(
            "IntrospectionEndpoint",
            IntrospectionEndpoint::builder("https://a:b@idp.example.com", client())
                .client_auth(ClientAuth::post("", secret("")))
                .build(),
            &["url", "client_auth.client_id"],
        ),
        case("KeySet", KeySet::from_json("{}"), &["json"]),
        case(
            "Provider",
            Provider::builder(" ", grant()).build(),
            &["name"],
        ),
        case(
            "MemoryStore",
            MemoryStore::builder().capacity(0).build(),
            &["capacity"],
        ),
        case(
            "RedisStore",
            RedisStore::builder("http://:pw@localhost", SealingKey::new([1; 32]))
                .time_to_live(Duration::ZERO)
                .response_limit(Duration::from_micros(1))
                .build(),
            &["url", "time_to_live", "response_limit"],
        ),
        case("SealingKey", SealingKey::from_base64("AAEC"), &["key"]),
        case(
            "Resources",
            Resources::<Body>::builder(client())
                .strategy("own", own_strategy())
                .strategy("obo", own_strategy())
                .strategy("own", own_strategy())
                .strategy(" ", own_strategy())
                .sts_endpoint("sts")
                .build(),
            &["strategy[1]", "strategy[2]", "strategy[3]", "sts_endpoint"],
        ),
    ]
}

#[test]
fn each_builder_names_all_of_its_wrong_settings_at_once() {
    for Case {
        type_name,
        error,
        settings,
    } in cases()
    {
        let error = error.unwrap_or_else(|| panic!("{type_name} was built"));
        let found: Vec<_> = error
            .invalid_settings()
            .iter()
            .map(|invalid| invalid.setting())
            .collect();
        assert_eq!(found, settings, "{error}");
        assert_eq!(error.type_name(), type_name);
    }
}

#[test]
fn an_error_is_one_sentence_for_each_setting_that_begins_with_its_name() {
    let exchange = TokenExchange::builder(public_endpoint())
        .audience("")
        .scopes(["a b"])
        .build();
    assert_eq!(
        exchange.unwrap_err().to_string(),
        "cannot build `TokenExchange`: `audience` is empty, give it a value; `scopes[0]` is not one word of visible \
         ASCII without quotes and backslashes (RFC 6749 §3.3)"
    );
    for error in cases().into_iter().filter_map(|case| case.error) {
        for invalid in error.invalid_settings() {
            let sentence = format!("`{}` {}", invalid.setting(), invalid.message());
            assert_eq!(invalid.to_string(), sentence);
            assert!(error.to_string().contains(&sentence));
            assert!(!invalid.message().ends_with('.'), "{invalid}");
        }
        assert!(error.source().is_none());
    }
}

#[test]
fn an_error_can_be_cloned_and_sent() {
    fn check<T: Error + Clone + Send + Sync + 'static>(_: &T) {}
    check(&UpstreamInject::new("").unwrap_err());
}

/// Texts of all sorts, with the marker in them.
fn hostile() -> impl Strategy<Value = String> {
    let around = prop_oneof![
        any::<String>(),
        Just(String::new()),
        Just("https://idp.example.com/".to_owned()),
        Just("https://user:".to_owned()),
        Just("redis://:".to_owned()),
        Just("arn:aws:iam::123456789012:role/".to_owned()),
        Just("claims[\"".to_owned()),
        Just("claims.a.matches('".to_owned()),
        Just("x-forwarded-".to_owned()),
        Just("\r\n".to_owned()),
        Just("{\"keys\":[{\"kty\":\"".to_owned()),
        Just("-----BEGIN PRIVATE KEY-----\n".to_owned()),
        prop::collection::vec(any::<char>(), 0..2000)
            .prop_map(|characters| characters.into_iter().collect()),
    ];
    (around.clone(), around).prop_map(|(before, after)| format!("{before}{MARKER}{after}"))
}

fn shown(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<_> = chain
        .map(|error| format!("{error} {error:?} {error:#?}"))
        .collect();
    texts.concat()
}

/// Nothing is shown of a value that was refused, and each fault has a name and a reason.
fn check<T: Debug>(built: Result<T, BuildError>, settings: &[&str]) {
    let Err(error) = built else { return };
    assert!(!shown(&error).contains(MARKER), "{error}");
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
    assert!(!error.invalid_settings().is_empty());
    for invalid in error.invalid_settings() {
        assert!(settings.contains(&invalid.setting()), "{invalid}");
        assert!(!invalid.message().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_a_setting_is_no_builder_panics_or_shows_it(text in hostile(), other in hostile()) {
        let (text, other) = (text.as_str(), other.as_str());
        let origin = || Origin::try_from("https://mcp.example.com").unwrap();
        check(
            Identity::builder(text).issuer(other).upstream(text, token()).upstream(text, token()).build(),
            &["upstream[1]"],
        );
        check(UpstreamInject::new(text), &[]);
        check(HeaderInjection::new(text, other), &["name", "value"]);
        // A variable with such a name cannot be asked for in a process.
        if !text.contains(['\0', '=']) {
            check(HeaderInjection::from_env(other, text), &["name", "variable"]);
        }
        check(
            HeaderForwardLayer::builder(origin()).header(text, other).capture(other).capture(other).build(),
            &["header[0].name", "header[0].value", "capture[0]", "capture[1]"],
        );
        check(
            TokenEndpoint::builder(text, client()).client_auth(ClientAuth::basic(other, secret(text))).build(),
            &["url", "client_auth.client_id", "client_auth.secret"],
        );
        check(
            PrivateKeyJwt::builder(SigningAlgorithm::Rs256, &secret(text)).key_id(other).audience(text).build(),
            &["pem"],
        );
        let settings = [
            "audience", "resource", "scopes[0]", "scopes[1]", "authorization_server_scopes[0]", "issuer", "provider",
        ];
        check(
            TokenExchange::builder(confidential_endpoint()).audience(text).resource(other).scopes([text, other])
                .subject(Subject::upstream(text)).build(),
            &settings,
        );
        check(
            ClientCredentials::builder(confidential_endpoint()).audience(text).resource(other).scopes([text, other])
                .build(),
            &settings,
        );
        check(OnBehalfOf::builder(confidential_endpoint()).scopes([text, other]).build(), &settings);
        check(
            CrossAppAccess::builder(text, public_endpoint(), public_endpoint()).audience(text).issuer(other)
                .resource(other).scopes([text]).authorization_server_scopes([other]).build(),
            &settings,
        );
        check(
            AwsSts::builder(text, client()).service(other).sts_endpoint(text).role_claim(other)
                .session_name_claim(text).role_mapping(RoleMapping::claim(text, other))
                .role_mapping(RoleMapping::matcher(other, text)).fallback_role(other).build(),
            &[
                "region", "service", "sts_endpoint", "role_mapping[0].role", "role_mapping[1].matcher",
                "role_mapping[1].role", "fallback_role",
            ],
        );
        check(
            TokenValidator::builder(text, client()).audience(other).realm(text).resource(other).scopes([text])
                .build(),
            &["issuer", "realm", "resource", "scopes[0]"],
        );
        check(
            TokenValidator::builder_with_keys(text, key_set()).audience(other).build(),
            &["audience"],
        );
        check(
            IntrospectionEndpoint::builder(text, client()).client_auth(ClientAuth::none(other)).build(),
            &["url", "client_auth.client_id"],
        );
        check(KeySet::from_json(text), &["json"]);
        check(Provider::builder(text, grant()).build(), &[]);
        check(SealingKey::from_base64(text), &["key"]);
        let redis = RedisStore::builder(text, SealingKey::new([1; 32])).prefix(other).build();
        check(redis, &["url", "prefix"]);
        let resources = Resources::<Body>::builder(client()).sts_endpoint(other)
            .strategy(text, own_strategy()).strategy(text, own_strategy()).build();
        check(resources, &["strategy[1]", "sts_endpoint"]);
    }
}
