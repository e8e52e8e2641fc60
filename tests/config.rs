//! Configuration: the keys of ToolHive's `outgoingAuth`, everything that can be wrong with them, and the layers that come
//! of it.
#![cfg(feature = "config")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{Request, StatusCode};
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use serde_json::{Value, json};
use support::{
    issuer::{CLIENT_CREDENTIALS, Client, Issuer, JWT_BEARER, TOKEN_EXCHANGE},
    token_stack::{
        Backend, Body, HttpService, clock, http_client, jwt, seconds, send, user,
        user_with_id_token,
    },
};
use tower::ServiceBuilder;
use tower_identity::{
    AccessToken, AuthErrorKind, AuthLayer, BackendAuthConfig, CredentialCache, Identity,
    IdentityLayer, Origin, OutgoingAuthConfig, Strategy, UpstreamToken,
    config::{ConfigError, LiveOutgoingAuth, Resources, ResourcesBuilder, Source},
    strategy_fn,
};

const SECRET: &str = "s3cr3t-value-that-nobody-may-see";

/// Every type with every member, as ToolHive's own documents have them.
const EVERY_TYPE: &str = r#"
source: inline
default:
  type: unauthenticated
backends:
  github:
    type: header_injection
    headerInjection:
      headerName: "Authorization"
      headerValueEnv: "GITHUB_API_TOKEN"
  jira:
    type: token_exchange
    tokenExchange:
      tokenUrl: "https://keycloak.example.com/realms/myrealm/protocol/openid-connect/token"
      clientId: "vmcp-jira-exchange"
      clientSecretEnv: "JIRA_EXCHANGE_SECRET"
      audience: "jira-api"
      scopes: ["read:jira-work", "write:jira-work"]
      stepUpScopes: ["manage:jira-project"]
      subjectTokenType: "access_token"
      requestedTokenType: "access_token"
      subjectProviderName: "okta"
      headerName: authorization
      headerPrefix: "token "
  linear:
    type: upstream_inject
    upstreamInject:
      providerName: linear
      headerName: x-upstream-authorization
      headerPrefix: "Bearer "
  people:
    type: claim_injection
    claimInjection:
      claims: [sub, email]
  aws:
    type: aws_sts
    awsSts:
      region: us-east-1
      service: aws-mcp
      fallbackRoleArn: arn:aws:iam::123456789012:role/Default
      roleMappings:
        - claim: admins
          roleArn: arn:aws:iam::123456789012:role/Admin
          priority: 1
        - matcher: '"devs" in claims["groups"] && !("act" in claims)'
          roleArn: arn:aws:iam::123456789012:role/Developer
      roleClaim: groups
      sessionDuration: 3600
      sessionNameClaim: sub
      subjectProviderName: okta
      fallbackAfterFailedMatcher: true
      replaceUnfitSessionNames: true
      payloadHash: header
      sessionPolicy: '{"Version":"2012-10-17","Statement":[]}'
      sessionPolicyArns: ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
  graph:
    type: obo
    obo:
      tokenUrl: https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token
      clientId: 11111111-2222-3333-4444-555555555555
      clientSecretEnv: OBO_CLIENT_SECRET
      audience: api://backend/.default
      scopes: ["https://graph.microsoft.com/User.Read"]
      stepUpScopes: ["https://graph.microsoft.com/Mail.Read"]
      subjectTokenProviderName: entra
      cacheSkewSeconds: 30
      headerName: x-graph-token
      headerPrefix: "Bearer "
  chat:
    type: xaa
    xaa:
      idpTokenUrl: https://idp.example.com/oauth2/v1/token
      idpClientId: gateway-at-idp
      idpClientSecretEnv: IDP_CLIENT_SECRET
      targetTokenUrl: http://auth.chat.svc.cluster.local/token
      insecureTargetTokenUrl: true
      targetClientId: gateway-at-chat
      targetClientSecretEnv: TARGET_CLIENT_SECRET
      targetAudience: https://auth.chat.example/
      targetResource: https://mcp.chat.example/
      scopes: [chat.read]
      targetScopes: [chat.read]
      stepUpScopes: [chat.write]
      subjectProviderName: okta
      subjectTokenType: urn:ietf:params:oauth:token-type:id_token
      idpIssuer: https://idp.example.com
      assertionType: id-jag
      requireResource: true
      headerName: x-chat-token
      headerPrefix: "Bearer "
"#;

fn from_yaml(text: &str) -> OutgoingAuthConfig {
    serde_saphyr::from_str(text).unwrap()
}

fn from_json(document: &Value) -> OutgoingAuthConfig {
    serde_json::from_value(document.clone()).unwrap()
}

/// Resources in whose environment each variable but `UNSET` and `EMPTY` has the secret, whose own name is none.
fn builder() -> ResourcesBuilder<Body> {
    Resources::builder(http_client()).environment(|variable| match variable {
        "UNSET" | SECRET => None,
        "EMPTY" => Some(String::new()),
        _ => Some(SECRET.to_owned()),
    })
}

fn resources() -> Resources<Body> {
    builder().build().unwrap()
}

fn error_of(config: &OutgoingAuthConfig) -> ConfigError {
    let error = config.check(&resources()).unwrap_err();
    assert!(!error.faults().is_empty());
    error
}

/// The faults, one line for each.
fn faults(config: &OutgoingAuthConfig) -> Vec<String> {
    let faults = error_of(config);
    faults.faults().iter().map(ToString::to_string).collect()
}

fn origin() -> Origin {
    Origin::try_from("https://mcp.example.com").unwrap()
}

fn github_token(token: &str) -> Identity {
    Identity::builder("alice")
        .upstream(
            "github",
            UpstreamToken::new(AccessToken::new(token).unwrap()),
        )
        .build()
        .unwrap()
}

fn stack(layer: AuthLayer<Arc<dyn Strategy<Body>>>) -> impl HttpService {
    ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(layer)
        .service(http_client())
}

/// A client of `backend`, which has the name `b` in the configuration.
fn client(
    config: &OutgoingAuthConfig,
    resources: &Resources<Body>,
    backend: &Backend,
) -> impl HttpService + use<> {
    let layer = config.layer_for("b", backend.server.origin(), resources);
    stack(layer.unwrap())
}

fn config_of(backend: &Value) -> OutgoingAuthConfig {
    from_json(&json!({ "backends": { "b": backend } }))
}

async fn assert_sent(client: &impl HttpService, request: Request<Body>) {
    let response = send(client, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

fn exchange_at(issuer: &Issuer, audience: &str) -> Value {
    json!({
        "type": "token_exchange",
        "tokenExchange": {
            "tokenUrl": issuer.url(),
            "clientId": "gateway",
            "clientSecretEnv": "GATEWAY_SECRET",
            "audience": audience,
        },
    })
}

// What is read.

#[cfg(feature = "aws-sts")]
#[test]
fn every_type_of_the_original_loads_from_yaml_with_every_member() {
    let config = from_yaml(EVERY_TYPE);
    config.check(&resources()).unwrap();
    let types: BTreeSet<_> = config
        .backends
        .values()
        .map(BackendAuthConfig::type_name)
        .collect();
    assert_eq!(types.len(), 7, "and `default` is the eighth");
    for backend in config.backends.keys() {
        config.layer_for(backend, origin(), &resources()).unwrap();
    }
}

#[test]
fn json_and_yaml_of_the_same_document_are_the_same_and_make_the_round_trip() {
    let document: Value = serde_saphyr::from_str(EVERY_TYPE).unwrap();
    let config = from_json(&document);
    assert_eq!(serde_json::to_value(&config).unwrap(), document);
    assert_eq!(
        serde_json::to_value(from_yaml(EVERY_TYPE)).unwrap(),
        document
    );
    let yaml = serde_saphyr::to_string(&config).unwrap();
    assert_eq!(serde_json::to_value(from_yaml(&yaml)).unwrap(), document);
}

#[test]
fn members_that_may_be_missing_may_be_null_and_the_source_too() {
    let config = from_json(&json!({
        "source": null,
        "default": null,
        "backends": { "jira": {
            "type": "token_exchange",
            "headerInjection": null,
            "tokenExchange": { "tokenUrl": "https://idp.example.com/token", "audience": null, "scopes": null },
        }},
    }));
    assert_eq!(config.source, Source::Inline);
    config.check(&resources()).unwrap();
    from_json(&json!({})).check(&resources()).unwrap();
}

#[test]
fn each_key_that_is_null_is_as_if_it_were_not_there_except_where_an_empty_map_has_a_meaning() {
    let schema = OutgoingAuthConfig::json_schema();
    let alternatives = schema["$defs"]["BackendAuthConfig"]["oneOf"]
        .as_array()
        .unwrap();
    let mut blocks = 0;
    for alternative in alternatives {
        let members = alternative["properties"].as_object().unwrap();
        for (block, keys) in members.iter().filter(|(name, _)| *name != "type") {
            let type_name = &alternative["properties"]["type"]["const"];
            let keys = properties(&schema, keys);
            let (dpop, others): (Vec<_>, Vec<_>) = keys
                .into_iter()
                .partition(|key| key.to_ascii_lowercase().ends_with("dpop"));
            let of = |keys: &[String]| {
                let nulls = keys.iter().map(|key| (key.clone(), Value::Null));
                let nulls = Value::Object(nulls.collect());
                from_json(&json!({ "backends": { "b": { "type": type_name, block: nulls } } }))
            };
            let (without, with_nulls) = (of(&[]), of(&others));
            let found = |config: &OutgoingAuthConfig| {
                let checked = config.check(&resources());
                checked.map_err(|error| error.to_string())
            };
            assert_eq!(found(&with_nulls), found(&without), "{block}");
            assert_eq!(
                serde_json::to_value(&with_nulls).unwrap(),
                serde_json::to_value(&without).unwrap()
            );
            for key in dpop {
                let place = format!("backends.b.{block}.{key}: is null; write `{{}}`");
                let found = faults(&of(std::slice::from_ref(&key)));
                assert!(
                    found.iter().any(|fault| fault.contains(&place)),
                    "{place} {found:#?}"
                );
                let key = &schema["$defs"][definition(&alternative["properties"][block])]["properties"]
                    [&key];
                assert_eq!(key["$ref"], "#/$defs/DpopConfig");
                assert!(key["description"].is_string() && key["anyOf"].is_null());
            }
            blocks += 1;
        }
    }
    assert!(blocks >= 9, "{blocks}");
}

/// The name of what an object refers to.
fn definition(object: &Value) -> &str {
    let reference = object["$ref"].as_str().unwrap();
    reference.trim_start_matches("#/$defs/")
}

#[test]
fn a_backend_that_is_not_listed_gets_the_default() {
    let config = from_yaml("{default: {type: unauthenticated}}");
    config.layer_for("anyone", origin(), &resources()).unwrap();
}

#[test]
fn a_backend_without_any_configuration_is_an_error_and_not_unauthenticated() {
    let error = OutgoingAuthConfig::default()
        .layer_for("anyone", origin(), &resources())
        .unwrap_err();
    assert_eq!(error.faults()[0].backend(), Some("anyone"));
    assert!(error.to_string().contains("there is no `default`"));
}

#[test]
fn where_the_application_discovers_the_default_does_not_stand_in_for_what_it_did_not_find() {
    let mut config = from_yaml("{source: discovered, default: {type: unauthenticated}}");
    config.check(&resources()).unwrap();
    let error = config
        .layer_for("github", origin(), &resources())
        .unwrap_err();
    assert!(error.to_string().contains("`source` is `discovered`"));
    let found = serde_json::from_value(json!({ "type": "unauthenticated" })).unwrap();
    config.backends.insert("github".into(), found);
    config.layer_for("github", origin(), &resources()).unwrap();
}

#[test]
fn a_part_by_itself_is_read_as_strictly() {
    let error = serde_json::from_value::<BackendAuthConfig>(
        json!({ "type": "xaa", "obo": {}, "colour": "red" }),
    )
    .unwrap_err();
    for part in [
        "obo: does not go with",
        "xaa: is missing",
        "colour: unknown key; expected one of `type`",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // One that could be used but for what is beside it.
    let beside = json!({ "type": "unauthenticated", "colour": "red" });
    let error = serde_json::from_value::<BackendAuthConfig>(beside).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("colour: unknown key; expected one of `type`"),
        "{error}"
    );
}

// What is wrong.

#[cfg(feature = "aws-sts")]
#[test]
fn what_an_application_builds_itself_is_checked_as_well() {
    let blank = || Some(String::from(" "));
    let mut exchange =
        tower_identity::config::TokenExchangeConfig::new("https://idp.example.com/token");
    exchange.client_id = blank();
    let mut aws = tower_identity::config::AwsStsConfig::new("eu-west-1");
    aws.fallback_role_arn = Some("arn:aws:iam::123456789012:role/X".into());
    aws.role_claim = Some(String::new());
    aws.session_name_claim = Some(String::new());
    aws.subject_provider_name = blank();
    let mut config = OutgoingAuthConfig::default();
    config.backends = std::collections::BTreeMap::from([
        (
            "exchange".into(),
            BackendAuthConfig::TokenExchange(exchange),
        ),
        ("aws".into(), BackendAuthConfig::AwsSts(aws)),
    ]);
    let found = faults(&config);
    let places: Vec<_> = found
        .iter()
        .map(|fault| fault.split_once(": ").unwrap().0)
        .collect();
    assert_eq!(
        places,
        [
            "backends.aws.awsSts.roleClaim",
            "backends.aws.awsSts.sessionNameClaim",
            "backends.aws.awsSts.subjectProviderName",
            "backends.exchange.tokenExchange.clientId",
        ],
        "{found:#?}"
    );
}

fn assert_fault(backend: Value, expected: &str) {
    let config = from_json(&json!({ "backends": { "b": backend.clone() } }));
    let found = faults(&config);
    let (place, message) = expected.split_once(": ").unwrap();
    let place = if place.is_empty() {
        "backends.b: ".to_owned()
    } else {
        format!("backends.b.{place}: ")
    };
    assert!(
        found.len() == 1 && found[0].starts_with(&place) && found[0].contains(message),
        "{backend} should be at fault with {place}{message}, and is with {found:#?}"
    );
    let layer = config.layer_for("b", origin(), &resources());
    assert_eq!(layer.unwrap_err().faults()[0].backend(), Some("b"));
}

/// A backend of this type with one member replaced, or removed where it is null.
fn with(backend: &str, member: &str, value: Value) -> Value {
    let mut document: Value = serde_saphyr::from_str(EVERY_TYPE).unwrap();
    let mut at = document["backends"][backend].take();
    let block = at
        .as_object_mut()
        .unwrap()
        .iter_mut()
        .find(|(name, _)| *name != "type")
        .unwrap()
        .1;
    if value.is_null() {
        block.as_object_mut().unwrap().remove(member);
    } else {
        block[member] = value;
    }
    at
}

#[test]
fn each_fault_of_form_names_the_backend_and_the_member() {
    assert_fault(json!(null), ": is null");
    assert_fault(json!("unauthenticated"), ": expected a map, found a string");
    assert_fault(json!([]), ": expected a map, found a list");
    assert_fault(json!({}), "type: is missing");
    assert_fault(json!({ "type": null }), "type: is missing");
    assert_fault(
        json!({ "type": 7 }),
        "type: expected a string, found a number; put it in quotes",
    );
    assert_fault(json!({ "type": "kerberos" }), "type: `kerberos` is neither");
    assert_fault(
        json!({ "type": "unauthenticated", "x": 1 }),
        "x: unknown key; expected one of `type`",
    );
    assert_fault(
        json!({ "type": "unauthenticated", "obo": {} }),
        "obo: does not go with the type `unauthenticated`",
    );
    assert_fault(json!({ "type": "obo" }), "obo: is missing");
    assert_fault(json!({ "type": "obo", "obo": null }), "obo: is missing");
    assert_fault(
        json!({ "type": "upstream_inject", "upstreamInject": "github" }),
        "upstreamInject: expected a map, found a string",
    );
    assert_fault(
        with("jira", "clientID", json!("x")),
        "tokenExchange.clientID: unknown key, did you mean `clientId`? Expected one of `tokenUrl`, `clientId`, `clientSecret`, ",
    );
    assert_fault(
        with("jira", "scopes", json!("repo")),
        "tokenExchange.scopes: expected a list, found a string",
    );
    assert_fault(
        with("jira", "scopes", json!(["repo", 5])),
        "tokenExchange.scopes[1]: expected a string, found a number",
    );
    assert_fault(
        with("jira", "clientId", json!(12345)),
        "tokenExchange.clientId: expected a string, found a number; put it in quotes",
    );
    assert_fault(
        with("jira", "audience", json!("")),
        "tokenExchange.audience: is empty",
    );
    assert_fault(
        with("jira", "audience", json!(" ")),
        "tokenExchange.audience: is empty",
    );
    let mut insecure = with("chat", "insecureTargetTokenUrl", json!("yes"));
    insecure["xaa"]["targetTokenUrl"] = json!("https://auth.chat.example/token");
    assert_fault(
        insecure,
        "xaa.insecureTargetTokenUrl: expected true or false, found a string",
    );
}

#[test]
fn a_fault_says_which_key_or_type_was_probably_meant_and_where_it_belongs() {
    assert_fault(
        json!({ "type": "token-exchange" }),
        "type: registered strategy, did you mean `token_exchange`? Expected one of `unauthenticated`, ",
    );
    assert_fault(
        with("jira", "scope", json!(["repo"])),
        "tokenExchange.scope: did you mean `scopes`?",
    );
    for (key, meant) in [
        (
            "headerValueFile",
            "unknown key; expected one of `headerName`",
        ),
        ("headerNameEnv", "did you mean `headerValueEnv`?"),
    ] {
        // A path under `headerValue` would be sent to the backend.
        let block = json!({ "headerName": "x-api-key", "headerValue": "k3y", key: "/run/key" });
        let backend = json!({ "type": "header_injection", "headerInjection": block });
        assert_fault(backend, &format!("headerInjection.{key}: {meant}"));
    }
    let mut beside = with("jira", "tokenUrl", json!(null));
    beside["tokenUrl"] = json!("https://idp.example.com/token");
    let config = from_json(&json!({ "backends": { "b": beside } }));
    assert!(
        faults(&config)
            .iter()
            .any(|fault| fault.starts_with("backends.b.tokenUrl: belongs within `tokenExchange`")),
        "{:#?}",
        faults(&config)
    );
    let config = from_json(&json!({ "defaults": { "type": "unauthenticated" } }));
    assert_eq!(
        faults(&config),
        [
            "defaults: unknown key, did you mean `default`? Expected one of `source`, `default`, `backends`"
        ]
    );
}

#[test]
fn a_whole_file_given_by_mistake_is_told_which_block_is_wanted() {
    let resource = json!({ "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "VirtualMCPServer", "spec": {} });
    for (document, key, part) in [
        (
            from_yaml(include_str!("data/toolhive/vmcp-config.yaml")),
            "outgoingAuth",
            "give this block alone",
        ),
        (from_json(&resource), "kind", "a resource of Kubernetes"),
    ] {
        let error = document.check(&resources()).unwrap_err();
        assert_eq!(error.faults().len(), 1, "{error}");
        assert_eq!(error.faults()[0].key(), key);
        assert!(error.faults()[0].message().contains(part), "{error}");
    }
}

#[test]
fn each_fault_that_a_strategy_finds_names_the_backend_and_the_member() {
    let cases = [
        (
            "github",
            "headerName",
            json!(null),
            "headerInjection.headerName: is missing",
        ),
        (
            "github",
            "headerName",
            json!("a b"),
            "headerInjection.headerName: has a character that the name of a header cannot have",
        ),
        (
            "github",
            "headerName",
            json!("Host"),
            "headerInjection.headerName: cannot be injected",
        ),
        (
            "github",
            "headerValueEnv",
            json!(null),
            "headerInjection.headerValue: is missing",
        ),
        (
            "github",
            "headerValueEnv",
            json!("UNSET"),
            "headerInjection.headerValueEnv: not set",
        ),
        (
            "github",
            "headerValueEnv",
            json!("EMPTY"),
            "headerInjection.headerValueEnv: is empty",
        ),
        (
            "github",
            "headerValue",
            json!("x"),
            "headerInjection.headerValueEnv: is there beside `headerValue`",
        ),
        (
            "jira",
            "tokenUrl",
            json!(null),
            "tokenExchange.tokenUrl: is missing",
        ),
        (
            "jira",
            "tokenUrl",
            json!("keycloak"),
            "tokenExchange.tokenUrl: absolute",
        ),
        (
            "jira",
            "tokenUrl",
            json!("http://idp.example.com/"),
            "tokenExchange.tokenUrl: plain http",
        ),
        (
            "jira",
            "tokenUrl",
            json!("https://idp.example.com/#x"),
            "tokenExchange.tokenUrl: fragment",
        ),
        (
            "jira",
            "clientId",
            json!(null),
            "tokenExchange.clientId: is missing, and there is a secret",
        ),
        (
            "jira",
            "clientSecret",
            json!("x"),
            "tokenExchange.clientSecretEnv: is there beside `clientSecret`",
        ),
        (
            "jira",
            "clientSecretEnv",
            json!("UNSET"),
            "tokenExchange.clientSecretEnv: not set",
        ),
        (
            "jira",
            "scopes",
            json!(["two words"]),
            "tokenExchange.scopes[0]: is not one word",
        ),
        (
            "jira",
            "subjectTokenType",
            json!("saml3"),
            "tokenExchange.subjectTokenType: is none of",
        ),
        (
            "jira",
            "subjectTokenType",
            json!("urn:with a space"),
            "tokenExchange.subjectTokenType: is not an absolute URI",
        ),
        (
            "jira",
            "clientSecretFile",
            json!("/run/secrets/jira"),
            "tokenExchange.clientSecretFile: is there beside `clientSecretEnv`",
        ),
        (
            "jira",
            "clientAssertionType",
            json!("jwt-spiffe"),
            "tokenExchange.clientAssertionType: is there without `clientAssertionFile`",
        ),
        (
            "jira",
            "stepUpScopes",
            json!(["write", "two words"]),
            "tokenExchange.stepUpScopes[1]: is not one word",
        ),
        (
            "graph",
            "scopes",
            json!(["https://graph.microsoft.com/.default"]),
            "obo.stepUpScopes: is of no use, because `.default` has all scopes",
        ),
        (
            "chat",
            "stepUpScopes",
            json!([""]),
            "xaa.stepUpScopes[0]: is not one word",
        ),
        (
            "jira",
            "headerName",
            json!("cookie"),
            "tokenExchange.headerName: is a header of the connection",
        ),
        (
            "jira",
            "headerName",
            json!(null),
            "tokenExchange.headerPrefix: is there without `headerName`",
        ),
        (
            "linear",
            "headerPrefix",
            json!("Bearer\n"),
            "upstreamInject.headerPrefix: is not a scheme",
        ),
        (
            "people",
            "claims",
            json!(["sub", "https://example.com/role"]),
            "claimInjection.claims[1]: has a header whose name",
        ),
        (
            "linear",
            "providerName",
            json!(null),
            "upstreamInject.providerName: is missing",
        ),
        ("graph", "clientId", json!(null), "obo.clientId: is missing"),
        (
            "graph",
            "clientSecretEnv",
            json!(null),
            "obo.clientSecret: is missing",
        ),
        (
            "graph",
            "scopes",
            json!(["two words"]),
            "obo.scopes[0]: is not one word",
        ),
        (
            "graph",
            "cacheSkewSeconds",
            json!(-1),
            "obo.cacheSkewSeconds: is negative",
        ),
        (
            "chat",
            "idpTokenUrl",
            json!("http://idp.example.com/"),
            "xaa.idpTokenUrl: plain http",
        ),
        (
            "chat",
            "insecureTargetTokenUrl",
            json!(false),
            "xaa.targetTokenUrl: plain http",
        ),
        (
            "chat",
            "targetScopes",
            json!(["chat.read", "two words"]),
            "xaa.targetScopes[1]: is not one word",
        ),
        (
            "chat",
            "targetAudience",
            json!(null),
            "xaa.targetAudience: is missing",
        ),
        (
            "chat",
            "targetResource",
            json!("chat"),
            "xaa.targetResource: ",
        ),
        (
            "chat",
            "subjectProviderName",
            json!(null),
            "xaa.subjectProviderName: is missing",
        ),
        (
            "chat",
            "subjectTokenType",
            json!("refresh_token"),
            "xaa.subjectTokenType: is `refresh_token`, and the application gave no upstream tokens",
        ),
        (
            "chat",
            "assertionType",
            json!("access_token"),
            "xaa.assertionType: is no assertion",
        ),
        (
            "chat",
            "idpClientSecretEnv",
            json!("UNSET"),
            "xaa.idpClientSecretEnv: not set",
        ),
        (
            "chat",
            "targetClientId",
            json!(null),
            "xaa.targetClientId: is missing, and there is a secret",
        ),
    ];
    for (backend, member, value, expected) in cases {
        assert_fault(with(backend, member, value), expected);
    }
    assert_fault(
        json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": "https://idp.example.com/token", "subjectTokenType": "id_token",
        } }),
        "tokenExchange.subjectProviderName: is missing; an ID token",
    );
    assert_fault(
        json!({ "type": "obo", "obo": {
            "tokenUrl": "https://idp.example.com/token", "clientId": "c", "clientSecret": "s",
        } }),
        "obo.scopes: is missing",
    );
}

#[cfg(feature = "aws-sts")]
#[test]
fn each_fault_of_aws_sts_names_the_backend_and_the_key() {
    assert_fault(
        with("aws", "sessionDuration", json!(3600.5)),
        "awsSts.sessionDuration: expected a whole number of 32 bits",
    );
    assert_fault(
        with(
            "aws",
            "roleMappings",
            json!([{ "claim": "x", "roleArn": "arn:aws:iam::123456789012:role/X", "role": 1 }]),
        ),
        "awsSts.roleMappings[0].role: unknown key, did you mean `roleArn`? Expected one of `claim`, `matcher`, `roleArn`, `priority`",
    );
    let role = "arn:aws:iam::123456789012:role/X";
    let cases = [
        ("aws", "region", json!(null), "awsSts.region: is missing"),
        (
            "aws",
            "region",
            json!("eu/west"),
            "awsSts.region: is not the name of an AWS region",
        ),
        (
            "aws",
            "service",
            json!("a b"),
            "awsSts.service: is not the signing name of an AWS service",
        ),
        (
            "aws",
            "fallbackRoleArn",
            json!("arn:aws:s3:::bucket"),
            "awsSts.fallbackRoleArn: is not the ARN",
        ),
        (
            "aws",
            "sessionDuration",
            json!(899),
            "awsSts.sessionDuration: 900 to 43,200",
        ),
        (
            "aws",
            "sessionDuration",
            json!(-1),
            "awsSts.sessionDuration: 900 to 43,200",
        ),
        (
            "aws",
            "roleMappings",
            json!([{ "roleArn": role }]),
            "awsSts.roleMappings[0]: has neither",
        ),
        (
            "aws",
            "roleMappings",
            json!([{ "claim": "a", "matcher": "true", "roleArn": role }]),
            "awsSts.roleMappings[0]: has both",
        ),
        (
            "aws",
            "roleMappings",
            json!([{ "claim": "a" }]),
            "awsSts.roleMappings[0].roleArn: is missing",
        ),
        (
            "aws",
            "roleMappings",
            json!([{ "claim": "a", "roleArn": "Admin" }]),
            "awsSts.roleMappings[0].roleArn: is not the ARN",
        ),
        (
            "aws",
            "roleMappings",
            json!([{ "matcher": "claims[", "roleArn": role }]),
            "awsSts.roleMappings[0].matcher: ",
        ),
    ];
    for (backend, key, value, expected) in cases {
        assert_fault(with(backend, key, value), expected);
    }
    assert_fault(
        json!({ "type": "aws_sts", "awsSts": { "region": "eu-west-1" } }),
        "awsSts.roleMappings: is missing, add one or set `fallbackRoleArn`",
    );
}

#[cfg(not(feature = "aws-sts"))]
#[test]
fn aws_sts_without_its_feature_is_a_fault_of_the_type_alone() {
    let document: Value = serde_saphyr::from_str(EVERY_TYPE).unwrap();
    assert_eq!(
        faults(&from_json(&document)),
        ["backends.aws.type: needs the feature `aws-sts` of the crate `tower-identity`"]
    );
}

#[cfg(not(feature = "private-key-jwt"))]
#[test]
fn what_is_signed_is_a_fault_without_the_feature_that_signs() {
    let needs = "needs the feature `private-key-jwt` of the crate `tower-identity`";
    let key = json!({ "keyId": "k", "algorithm": "ES256", "keyFile": "/k/k" });
    assert_fault(
        json!({ "type": "signed_identity", "signedIdentity": {
            "issuer": "g", "audience": "a", "signingKeys": [key],
        }}),
        &format!("type: {needs}"),
    );
    let exchange = json!({
        "tokenUrl": "https://idp.example.com/token", "clientId": "gateway",
        "clientKey": { "algorithm": "ES256", "keyFile": "/k/k" },
    });
    assert_fault(
        json!({ "type": "token_exchange", "tokenExchange": exchange }),
        &format!("tokenExchange.clientKey: {needs}"),
    );
}

#[cfg(feature = "aws-sts")]
#[test]
fn all_faults_of_all_backends_are_told_at_once() {
    let config = from_yaml(
        r#"
source: kubernetes
sauce: x
default: {type: unauthenticated, tokenExchange: {}}
backends:
  null-one:
  github: {type: header_injection, headerInjection: {headerName: Host, headerValueEnv: UNSET, value: x}}
  aws:
    type: aws_sts
    awsSts:
      region: "EU WEST"
      fallbackRoleArn: not-an-arn
      sessionDuration: 5
      roleMappings:
        - {claim: a, roleArn: b}
        - {matcher: "((", roleArn: "arn:aws:iam::123456789012:role/X"}
  jira:
    type: token_exchange
    tokenExchange: {tokenUrl: "ftp://idp", clientSecretEnv: EMPTY, scopes: [a b], subjectTokenType: saml}
"#,
    );
    let places: Vec<_> = faults(&config)
        .iter()
        .map(|fault| fault.split_once(": ").unwrap().0.to_owned())
        .collect();
    assert_eq!(
        places,
        [
            "source",
            "sauce",
            "default.tokenExchange",
            "backends.aws.awsSts.region",
            "backends.aws.awsSts.fallbackRoleArn",
            "backends.aws.awsSts.roleMappings[0].roleArn",
            "backends.aws.awsSts.roleMappings[1].matcher",
            "backends.aws.awsSts.sessionDuration",
            "backends.github.headerInjection.value",
            "backends.github.headerInjection.headerName",
            "backends.github.headerInjection.headerValueEnv",
            "backends.jira.tokenExchange.tokenUrl",
            "backends.jira.tokenExchange.clientId",
            "backends.jira.tokenExchange.clientSecretEnv",
            "backends.jira.tokenExchange.scopes[0]",
            "backends.jira.tokenExchange.subjectTokenType",
            "backends.null-one",
        ]
    );
    let layer = config.layer_for("github", origin(), &resources());
    assert_eq!(layer.unwrap_err().faults().len(), places.len());
}

#[cfg(feature = "aws-sts")]
#[test]
fn a_fault_is_one_line_also_where_an_expression_does_not_compile() {
    for matcher in ["1 +", "claims[\n\"a\"", "\u{1b}[31m", "a b\r\nc d", "'"] {
        let document = json!({ "backends": { "aws": { "type": "aws_sts", "awsSts": {
            "region": "eu-west-1",
            "roleMappings": [
                { "matcher": matcher, "roleArn": "arn:aws:iam::123456789012:role/Any" },
            ],
        } } } });
        let error = error_of(&from_json(&document));
        assert_eq!(error.faults().len(), 1, "{error}");
        assert!(
            error.to_string().contains("does not compile: line "),
            "{error}"
        );
        assert_eq!(error.to_string().lines().count(), 2, "{error}");
        let fault = error.faults()[0].to_string();
        assert!(!fault.contains(char::is_control), "{fault:?}");
    }
}

#[test]
fn a_fault_of_form_anywhere_keeps_every_layer_back() {
    let config = from_yaml("{default: {type: unauthenticated}, backend: {}}");
    let error = config
        .layer_for("github", origin(), &resources())
        .unwrap_err();
    assert_eq!(error.faults().len(), 1);
    assert_eq!(error.faults()[0].key(), "backend");
    assert!(
        error.faults()[0].message().starts_with("unknown key"),
        "{error}"
    );
}

#[test]
fn a_backend_that_is_missing_is_told_of_beside_the_faults_of_others_and_once() {
    let config =
        from_yaml("{backends: {broken: {type: unauthenticated, colour: red}, null-one: }}");
    let backends_at_fault = |backend: &str| {
        let error = config.layer_for(backend, origin(), &resources());
        let error = error.unwrap_err();
        let backends = error.faults().iter();
        backends
            .map(|fault| fault.backend().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        backends_at_fault("missing"),
        ["broken", "null-one", "missing"]
    );
    assert_eq!(backends_at_fault("null-one"), ["broken", "null-one"]);
}

#[test]
fn what_is_there_twice_is_an_error() {
    let config: OutgoingAuthConfig = serde_json::from_str(
        r#"{"backends": {
            "a": {"type": "unauthenticated"},
            "a": {"type": "unauthenticated"},
            "b": {"type": "unauthenticated", "type": "obo"}
        }}"#,
    )
    .unwrap();
    let found = faults(&config);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("backends.a: is there twice"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("backends.b.type: is there twice"),
        "{found:#?}"
    );
}

#[test]
fn what_is_no_map_is_refused_by_deserialization() {
    for document in [json!(null), json!([]), json!("x"), json!(1)] {
        serde_json::from_value::<OutgoingAuthConfig>(document).unwrap_err();
    }
}

// Secrets.

#[test]
fn no_output_shows_a_secret() {
    let literal = |member: &str| json!({ member: SECRET });
    let document = json!({ "backends": {
        "header": { "type": "header_injection", "headerInjection": { "headerName": "x-api-key", "headerValue": SECRET } },
        "exchange": { "type": "token_exchange", "tokenExchange": {
            "tokenUrl": "https://idp.example.com/token", "clientId": "c", "clientSecret": SECRET } },
        "obo": { "type": "obo", "obo": {
            "tokenUrl": "https://idp.example.com/token", "clientId": "c", "clientSecret": SECRET, "audience": "a" } },
        "xaa": { "type": "xaa", "xaa": {
            "idpTokenUrl": "https://idp.example.com/token", "idpClientId": "c", "idpClientSecret": SECRET,
            "targetTokenUrl": "https://as.example.com/token", "targetClientId": "c", "targetClientSecret": SECRET,
            "targetAudience": "https://as.example.com", "subjectProviderName": "okta" } },
    }});
    let config = from_json(&document);
    let resources = resources();
    config.check(&resources).unwrap();
    let shown = format!(
        "{config:?} {} {} {resources:?}",
        serde_json::to_string(&config).unwrap(),
        serde_saphyr::to_string(&config).unwrap(),
    );
    assert!(!shown.contains(SECRET), "{shown}");
    let live = LiveOutgoingAuth::new(config.clone(), resources.clone()).unwrap();
    let shown = format!("{shown} {live:?} {:?}", builder());
    assert!(!shown.contains(SECRET), "{shown}");
    for witness in ["Resources {", "LiveOutgoingAuth {", "ResourcesBuilder {"] {
        assert!(shown.contains(witness), "{witness}: {shown}");
    }
    assert_eq!(
        shown.matches("headerValue: '[redacted]'").count()
            + shown.matches("headerValue: \"[redacted]\"").count(),
        1,
        "{shown}"
    );

    // A secret in a place where it is a fault.
    for backend in [
        json!({ "type": "header_injection", "headerInjection": { "headerName": "Host", "headerValue": SECRET, "headerValueEnv": "X" } }),
        json!({ "type": "header_injection", "headerInjection": { "headerName": "x", "headerValue": format!("{SECRET}\n") } }),
        json!({ "type": "header_injection", "headerInjection": { "headerName": "x", "headerValue": literal("x") } }),
        json!({ "type": "header_injection", "headerInjection": { "headerName": "x", "headerValue": [SECRET] } }),
        json!({ "type": "header_injection", "headerInjection": SECRET }),
        json!({ "type": "token_exchange", "tokenExchange": { "clientSecret": SECRET, "scopes": SECRET } }),
        json!({ "type": "obo", "xaa": { "idpClientSecret": SECRET }, "secret": SECRET }),
        json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": "https://idp.example.com/token", "clientId": "c", "clientSecretFile": SECRET } }),
        json!(SECRET),
    ] {
        let config = from_json(&json!({ "backends": { "b": backend } }));
        let error = error_of(&config);
        let shown = format!(
            "{error} {error:?} {config:?} {}",
            serde_json::to_string(&config).unwrap()
        );
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let number = from_json(&json!({ "backends": { "b": {
        "type": "header_injection", "headerInjection": { "headerName": "x", "headerValue": 987_654_321 } } } }));
    assert!(!format!("{} {number:?}", error_of(&number)).contains("987"));
}

#[test]
fn a_secret_that_was_written_in_place_of_a_variables_name_is_not_told() {
    let error = error_of(&from_json(&json!({ "backends": { "b": {
        "type": "header_injection",
        "headerInjection": { "headerName": "x-api-key", "headerValueEnv": SECRET },
    } } })));
    let shown = format!("{error} {error:?}");
    assert!(
        shown.contains("backends.b.headerInjection.headerValueEnv") && !shown.contains(SECRET),
        "{shown}"
    );
}

#[test]
fn what_was_written_in_place_of_a_secret_is_not_taken_for_one() {
    let config = from_json(&json!({ "backends": { "b": {
        "type": "header_injection",
        "headerInjection": { "headerName": "x-api-key", "headerValue": SECRET },
    } } }));
    let written = serde_json::to_value(&config).unwrap();
    let found = faults(&from_json(&written));
    assert!(
        found[0].starts_with("backends.b.headerInjection.headerValue: is `[redacted]`"),
        "{found:#?}"
    );
}

#[tokio::test]
async fn f42_the_requested_token_type_is_what_the_key_says() {
    let urn = |name: &str| format!("urn:ietf:params:oauth:token-type:{name}");
    for (key, sent) in [
        (json!(null), Some(urn("access_token"))),
        (json!("access_token"), Some(urn("access_token"))),
        (json!(urn("jwt")), Some(urn("jwt"))),
        (json!("none"), None),
    ] {
        let issuer = Issuer::start().await;
        issuer.know("own-token", "alice");
        let backend = Backend::start().await;
        let config = config_of(&json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": issuer.url(), "requestedTokenType": key } }));
        let client = client(&config, &resources(), &backend);
        // The issuer may answer with another type. The request is what counts.
        let _ = send(&client, backend.request(user("alice", "own-token"))).await;
        let request = issuer.request();
        assert_eq!(request.one("requested_token_type"), sent.as_deref());
    }
    assert_fault(
        with("jira", "requestedTokenType", json!("id_token")),
        "tokenExchange.requestedTokenType: is none of",
    );
}

#[tokio::test]
async fn f42_an_assertion_of_another_issuer_than_the_key_names_is_refused() {
    for (issuer, is_sent) in [
        (json!("https://idp.example.com"), true),
        (json!("https://other.example.com"), false),
    ] {
        let (idp, target) = (Issuer::start().await, Issuer::start().await);
        let backend = Backend::start().await;
        let claims = json!({ "iss": "https://idp.example.com", "aud": "https://as.example.com",
            "sub": "alice", "exp": 4_000_000_000_u64 });
        let id_token = jwt(&json!({ "alg": "none" }), &claims);
        let assertion = jwt(&json!({ "typ": "oauth-id-jag+jwt" }), &claims);
        idp.next(support::issuer::Behaviour::json(
            200,
            &json!({
                "access_token": assertion,
                "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
                "token_type": "N_A",
            }),
        ));
        target.know(&assertion, "alice");
        let config = config_of(&json!({ "type": "xaa", "xaa": {
            "idpTokenUrl": idp.url(), "targetTokenUrl": target.url(), "idpIssuer": issuer,
            "targetAudience": "https://as.example.com", "subjectProviderName": "idp",
        } }));
        let client = client(&config, &resources(), &backend);
        let answer = send(
            &client,
            backend.request(user_with_id_token("alice", &id_token)),
        )
        .await;
        let error = answer.as_ref().err().map(ToString::to_string);
        assert_eq!(answer.is_ok(), is_sent, "{error:?}");
        assert_eq!(target.count(JWT_BEARER, Some("alice")) > 0, is_sent);
    }
}

#[cfg(feature = "aws-sts")]
#[tokio::test]
async fn f42_the_settings_of_aws_sts_reach_aws() {
    let sts = support::http_server::HttpServer::start(|_| async {
        http::Response::builder()
            .status(500)
            .body(support::http_server::server_body(
                http_body_util::Full::from(""),
            ))
            .unwrap()
    })
    .await;
    let backend = Backend::start().await;
    let resources = builder().sts_endpoint(sts.uri("")).build().unwrap();
    let role = "arn:aws:iam::123456789012:role/X";
    let send_with = async |extra: Value, tags: Value| {
        let mut block = json!({ "region": "eu-west-1", "fallbackRoleArn": role });
        for (key, value) in extra.as_object().unwrap() {
            block[key] = value.clone();
        }
        let config = config_of(&json!({ "type": "aws_sts", "awsSts": block }));
        let client = client(&config, &resources, &backend);
        let claims = json!({ "sub": "auth0|1", "https://aws.amazon.com/tags": tags });
        let token = jwt(&json!({ "alg": "none" }), &claims);
        let user = Identity::builder("auth0|1")
            .token(AccessToken::new(token).unwrap())
            .claims(claims.as_object().unwrap().clone())
            .build()
            .unwrap();
        let before = sts.requests().len();
        let error = send(&client, backend.request(user)).await.unwrap_err();
        (error.kind(), sts.requests().len() > before)
    };
    let none = json!({});
    let (_, is_asked) = send_with(json!({}), none.clone()).await;
    assert!(!is_asked, "the name of the session is unfit");
    let fit = json!({ "replaceUnfitSessionNames": true });
    let (_, is_asked) = send_with(fit, none.clone()).await;
    assert!(is_asked);
    let matcher = json!({ "replaceUnfitSessionNames": true, "roleMappings": [
        { "matcher": "claims[\"absent\"] == \"x\"", "roleArn": role }] });
    let (_, is_asked) = send_with(matcher.clone(), none.clone()).await;
    assert!(!is_asked, "a matcher failed");
    let mut fallback = matcher;
    fallback["fallbackAfterFailedMatcher"] = json!(true);
    // AWS STS failed for this role just now, and is not asked again.
    let (kind, _) = send_with(fallback, none.clone()).await;
    assert_eq!(kind, AuthErrorKind::Unavailable);
    let tags = json!({ "replaceUnfitSessionNames": true, "requiredSessionTags": ["Department"] });
    let (kind, is_asked) = send_with(tags, none.clone()).await;
    assert_eq!((kind, is_asked), (AuthErrorKind::InsufficientScope, false));
    let claim = json!({ "replaceUnfitSessionNames": true, "sessionPolicyClaim": "policy" });
    let (kind, is_asked) = send_with(claim, none).await;
    assert_eq!((kind, is_asked), (AuthErrorKind::Configuration, false));

    for (key, value, expected) in [
        (
            "payloadHash",
            json!("md5"),
            "awsSts.payloadHash: is none of",
        ),
        ("sessionPolicy", json!("no JSON"), "awsSts.sessionPolicy: "),
        (
            "sessionPolicyClaim",
            json!("policy"),
            "awsSts.sessionPolicyClaim: ",
        ),
        (
            "sessionPolicyArns",
            json!(["x"]),
            "awsSts.sessionPolicyArns[0]: ",
        ),
    ] {
        assert_fault(with("aws", key, value), expected);
    }
    assert_fault(
        json!({ "type": "aws_sts", "awsSts": {
            "region": "eu-west-1", "fallbackRoleArn": role, "requiredSessionTags": [""] } }),
        "awsSts.requiredSessionTags[0]: is not the key of a tag",
    );
}

#[test]
fn f60_an_error_of_the_parser_as_the_documentation_sets_it_shows_no_secret() {
    let options = || serde_saphyr::options! { with_snippet: false };
    let broken = [
        format!("backends:\n  b:\n    headerInjection:\n      headerValue: {SECRET}\n     x: [\n"),
        format!("backends:\n  b: {{ headerValue: {SECRET}\n"),
        format!("backends:\n  b:\n    headerValue: \"{SECRET}\n"),
        format!("backends:\n  b:\n    headerValue: \"{SECRET}\\q\"\n"),
        format!("backends:\n  b:\n    headerValue: *{SECRET}\n"),
        format!("backends:\n\t  b: {SECRET}\n"),
        format!("- {SECRET}\n"),
        format!("{SECRET}\n"),
        format!("source: inline\nsource: {SECRET}\n  x: y\n"),
    ];
    let mut with_snippets = 0;
    for text in &broken {
        let parsed = serde_saphyr::from_str::<OutgoingAuthConfig>(text);
        with_snippets += usize::from(parsed.unwrap_err().to_string().contains(SECRET));
        let parsed = serde_saphyr::from_str_with_options::<OutgoingAuthConfig>(text, options());
        let error = parsed.unwrap_err();
        let is_shown = format!("{error} {error:?}").contains(SECRET);
        assert!(!is_shown, "{text}: {error}");
    }
    assert!(with_snippets > 0, "the setting makes no difference");
}

/// The files below `folder` whose name ends with `.rs` or `.md`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let entries = entries.map(|entry| entry.unwrap().path());
    let below = |entry: PathBuf| match entry.is_dir() {
        true => sources(&entry),
        false => vec![entry],
    };
    entries.flat_map(below).collect()
}

#[test]
fn f60_the_documentation_and_the_examples_parse_documents_without_snippets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md")];
    files.extend(sources(&root.join("src")));
    files.extend(sources(&root.join("examples")));
    let mut parsed = 0;
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((_, call)) = line.split_once("serde_saphyr::from_") else {
                continue;
            };
            parsed += 1;
            assert!(call.contains("_with_options"), "{file:?}: {line}");
            let before = lines[at.saturating_sub(6)..at].concat();
            let is_off = before.contains("options! { with_snippet: false }");
            assert!(is_off, "{file:?}: {line}");
        }
    }
    assert!(parsed >= 3, "{parsed}");
}

#[test]
fn f56_a_secret_with_a_line_break_is_refused_and_its_key_named() {
    for (backend, env, key, block) in [
        ("jira", "clientSecretEnv", "clientSecret", "tokenExchange"),
        ("graph", "clientSecretEnv", "clientSecret", "obo"),
        ("chat", "idpClientSecretEnv", "idpClientSecret", "xaa"),
        ("chat", "targetClientSecretEnv", "targetClientSecret", "xaa"),
        ("github", "headerValueEnv", "headerValue", "headerInjection"),
    ] {
        for end in ["\n", "\r\n", "\u{7f}", "\u{feff}", "\u{a0}"] {
            let secret = format!("{SECRET}{end}");
            let resources = {
                let secret = secret.clone();
                builder()
                    .environment(move |_| Some(secret.clone()))
                    .build()
                    .unwrap()
            };
            let by_variable = config_of(&with(backend, env, json!("NAME")));
            let mut by_value = with(backend, env, json!(null));
            by_value[block][key] = json!(secret);
            for (config, key) in [(by_variable, env), (config_of(&by_value), key)] {
                let error = config.check(&resources).unwrap_err();
                let is_told = |fault: &tower_identity::config::ConfigFault| {
                    fault.key() == format!("{block}.{key}") && fault.message().contains(" at byte ")
                };
                assert!(error.faults().iter().any(is_told), "{error}");
                assert!(!error.to_string().contains(SECRET), "{error}");
            }
        }
    }
}

#[test]
fn f56_a_placeholder_is_no_secret() {
    let is_refused = |value: &str| {
        let resources = {
            let value = value.to_owned();
            builder()
                .environment(move |_| Some(value.clone()))
                .build()
                .unwrap()
        };
        let mut by_value = with("jira", "clientSecretEnv", json!(null));
        by_value["tokenExchange"]["clientSecret"] = json!(value);
        let by_value = config_of(&by_value).check(&resources);
        let by_variable =
            config_of(&with("github", "headerValueEnv", json!("KEY"))).check(&resources);
        assert_eq!(by_value.is_err(), by_variable.is_err());
        by_value.is_err_and(|error| error.to_string().contains("placeholder"))
    };
    let meant = builder().allow_placeholders().build().unwrap();
    let mut config = with("jira", "clientSecretEnv", json!(null));
    config["tokenExchange"]["clientSecret"] = json!("${TOKEN}");
    config_of(&config).check(&meant).unwrap();
    for value in [
        "${TOKEN}",
        "Bearer ${TOKEN}",
        "${TOKEN:-none}",
        "{{ token }}",
        "{{.Values.token | quote}}",
        "${{ secrets.TOKEN }}",
    ] {
        assert!(is_refused(value), "{value}");
    }
    for value in [
        "$TOKEN",
        "a${",
        "${}",
        "{{}}",
        "${a#b}",
        "{\"a\":{\"b\":1}}",
        "}}a{{",
    ] {
        assert!(!is_refused(value), "{value}");
    }
}

#[cfg(all(feature = "aws-sts", feature = "dpop"))]
#[test]
fn f94_what_has_the_wrong_form_is_not_missing_as_well() {
    let exchange = |more: Value| {
        let mut block = json!({ "tokenUrl": "https://idp.example.com/token" });
        let members = block.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        block
    };
    let token_exchange =
        |more| json!({ "type": "token_exchange", "tokenExchange": exchange(more) });
    let client_credentials =
        |more: Value| json!({ "type": "client_credentials", "clientCredentials": exchange(more) });
    let header = |value: Value| {
        let block = json!({ "headerName": "x-api-key", "headerValueEnv": value });
        json!({ "type": "header_injection", "headerInjection": block })
    };
    let of_client =
        |key: &str, value: Value| client_credentials(json!({ "clientId": "a", key: value }));
    let mut cases = vec![
        (header(json!(7)), "headerInjection.headerValueEnv"),
        (
            json!({ "type": "both", "both": {
                "first": header(json!(7)),
                "second": { "type": "unauthenticated" },
            } }),
            "both.first.headerInjection.headerValueEnv",
        ),
        (
            client_credentials(json!({ "workloadTokenFile": 7 })),
            "clientCredentials.workloadTokenFile",
        ),
        (
            of_client("clientKey", json!({ "keyEnv": 7, "algorithm": "ES256" })),
            "clientCredentials.clientKey.keyEnv",
        ),
        (
            json!({ "type": "obo", "obo": exchange(json!({
                "clientId": "a", "clientKey": "/run/key.pem", "scopes": ["mail"],
            })) }),
            "obo.clientKey",
        ),
        (
            token_exchange(json!({
                "clientId": "a", "clientAssertionFile": 7, "clientAssertionType": "jwt-spiffe",
            })),
            "tokenExchange.clientAssertionFile",
        ),
        (
            token_exchange(json!({ "parameters": [{ "name": "tenant", "claim": 7 }] })),
            "tokenExchange.parameters[0].claim",
        ),
        (
            token_exchange(json!({ "headerName": 7, "headerPrefix": "token " })),
            "tokenExchange.headerName",
        ),
        (
            token_exchange(json!({ "dpop": { "keyFile": 7, "algorithm": "ES256" } })),
            "tokenExchange.dpop.keyFile",
        ),
        (
            json!({ "type": "aws_sts", "awsSts": { "region": "us-east-1", "fallbackRoleArn": 7 } }),
            "awsSts.fallbackRoleArn",
        ),
    ];
    let keys = [
        ("clientSecret", "clientCredentials.clientSecret"),
        ("clientSecretEnv", "clientCredentials.clientSecretEnv"),
        ("clientSecretFile", "clientCredentials.clientSecretFile"),
        (
            "clientAssertionFile",
            "clientCredentials.clientAssertionFile",
        ),
        ("clientKey", "clientCredentials.clientKey"),
        ("clientCertificate", "clientCredentials.clientCertificate"),
    ];
    cases.extend(keys.map(|(key, path)| (of_client(key, json!(7)), path)));
    for (backend, key) in cases {
        let error = error_of(&config_of(&backend));
        let keys: Vec<_> = error.faults().iter().map(|fault| fault.key()).collect();
        assert_eq!(keys, [key], "{error}");
    }
    // What is missing beside it is told at once.
    let other = client_credentials(json!({ "clientSecretEnv": 7, "tokenUrl": "" }));
    assert_eq!(error_of(&config_of(&other)).faults().len(), 3);
}

#[test]
fn f58_a_variable_is_named_where_its_name_looks_like_one() {
    let named = config_of(&with("jira", "clientSecretEnv", json!("UNSET")));
    assert!(faults(&named)[0].contains("`UNSET`"));
    let written = serde_json::to_value(&named).unwrap();
    assert!(written.to_string().contains("UNSET") && format!("{named:?}").contains("UNSET"));

    let mistaken = config_of(&with("jira", "clientSecretEnv", json!(SECRET)));
    let written = serde_json::to_value(&mistaken).unwrap();
    let shown = format!("{mistaken:?} {written} {}", error_of(&mistaken));
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(faults(&from_json(&written))[0].contains("is `[redacted]`"));
}

#[test]
fn f58_a_fault_asks_only_for_what_is_possible() {
    let of = |backend, key, value| faults(&config_of(&with(backend, key, value)))[0].clone();
    let required = of("jira", "tokenUrl", json!(""));
    assert!(!required.contains("leave it out"), "{required}");
    let optional = of("jira", "audience", json!(""));
    assert!(optional.contains("leave it out"), "{optional}");
    let http = json!("http://idp.example.com/token");
    for (backend, key) in [("jira", "tokenUrl"), ("chat", "idpTokenUrl")] {
        let fault = of(backend, key, http.clone());
        assert!(
            !fault.contains("network that") && !fault.contains("insecure"),
            "{fault}"
        );
    }
    let fault = of("chat", "insecureTargetTokenUrl", json!(false));
    assert!(fault.contains("`insecureTargetTokenUrl`"), "{fault}");
    let fault = of("jira", "clientId", json!(null));
    assert!(fault.contains("`clientSecretEnv`"), "{fault}");
}

// The upstream providers.

fn resources_with_providers(names: &[&str]) -> Resources<Body> {
    builder()
        .upstream_providers(names.iter().copied())
        .build()
        .unwrap()
}

#[test]
fn f55_a_provider_that_does_not_exist_is_a_fault_that_lists_those_that_do() {
    let cases = [
        ("jira", "subjectProviderName", "tokenExchange"),
        ("linear", "providerName", "upstreamInject"),
        #[cfg(feature = "aws-sts")]
        ("aws", "subjectProviderName", "awsSts"),
        ("graph", "subjectTokenProviderName", "obo"),
        ("chat", "subjectProviderName", "xaa"),
    ];
    for (backend, key, block) in cases {
        let config = config_of(&with(backend, key, json!("otka")));
        config.check(&resources()).unwrap();
        let known = config_of(&with(backend, key, json!("github")));
        let resources = resources_with_providers(&["okta", "github"]);
        known.check(&resources).unwrap();
        let error = config.check(&resources).unwrap_err();
        let [fault] = error.faults() else {
            panic!("{error}");
        };
        assert_eq!(fault.key(), format!("{block}.{key}"));
        assert_eq!(
            fault.message(),
            "`otka` is not an upstream provider; expected one of `okta`, `github`"
        );
        let none = config.check(&resources_with_providers(&[])).unwrap_err();
        assert!(none.to_string().contains("there is none"), "{none}");
    }
}

#[tokio::test]
async fn f55_a_missing_subject_provider_is_the_first_one() {
    for (providers, token) in [
        (&["okta", "github"][..], "token-of-okta"),
        (&["github", "okta"], "token-of-github"),
        (&[], "own-token"),
    ] {
        let issuer = Issuer::start().await;
        issuer.know(token, "alice");
        let backend = Backend::start().await;
        let config = config_of(&json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": issuer.url() } }));
        let upstream = |token| UpstreamToken::new(AccessToken::new(token).unwrap());
        let alice = Identity::builder("alice")
            .token(AccessToken::new("own-token").unwrap())
            .upstream("okta", upstream("token-of-okta"))
            .upstream("github", upstream("token-of-github"))
            .build()
            .unwrap();
        let client = client(&config, &resources_with_providers(providers), &backend);
        assert_sent(&client, backend.request(alice)).await;
        assert_eq!(issuer.request().one("subject_token"), Some(token));
    }
}

#[test]
fn f55_cross_app_access_without_a_provider_needs_that_there_is_only_one() {
    let config = config_of(&with("chat", "subjectProviderName", json!(null)));
    config.check(&resources_with_providers(&["okta"])).unwrap();
    for (providers, message) in [
        (&["okta", "github"][..], "more than one"),
        (&[], "is missing"),
    ] {
        let error = config
            .check(&resources_with_providers(providers))
            .unwrap_err();
        let [fault] = error.faults() else {
            panic!("{error}");
        };
        assert_eq!(fault.key(), "xaa.subjectProviderName");
        assert!(fault.message().contains(message), "{fault}");
    }
}

#[test]
fn f55_names_of_providers_are_neither_blank_nor_there_twice() {
    let error = builder()
        .upstream_providers(["okta", " ", "okta"])
        .build()
        .unwrap_err();
    let settings = error.invalid_settings().iter();
    let settings: Vec<_> = settings.map(|invalid| invalid.setting()).collect();
    assert_eq!(settings, ["upstream_providers[1]", "upstream_providers[2]"]);
}

// The schema.

#[test]
fn the_schema_beside_the_source_is_the_one_that_is_generated() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/schema.json");
    let mut generated = serde_json::to_string_pretty(&OutgoingAuthConfig::json_schema()).unwrap();
    generated.push('\n');
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(
        committed == generated,
        "run this test with UPDATE_SCHEMA=1, and commit src/config/schema.json"
    );
}

/// The members of an object that the schema describes, in one way or another.
fn properties(schema: &Value, object: &Value) -> BTreeSet<String> {
    let object = match object["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => object,
    };
    assert_eq!(object["additionalProperties"], false);
    object["properties"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

#[test]
fn the_schema_knows_the_members_that_are_read_and_no_others() {
    let schema = OutgoingAuthConfig::json_schema();
    let alternatives = schema["$defs"]["BackendAuthConfig"]["oneOf"]
        .as_array()
        .unwrap();
    let document: Value = serde_saphyr::from_str(EVERY_TYPE).unwrap();
    for backend in document["backends"].as_object().unwrap().values() {
        let alternative = alternatives
            .iter()
            .find(|alternative| alternative["properties"]["type"]["const"] == backend["type"])
            .unwrap();
        for (name, block) in backend
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "type")
        {
            let mut expected: BTreeSet<_> = block.as_object().unwrap().keys().cloned().collect();
            // Keys that do not go with the others.
            if name == "awsSts" {
                expected.extend(["requiredSessionTags", "sessionPolicyClaim"].map(String::from));
            }
            if name == "upstreamInject" {
                expected.insert("dpop".to_owned());
            }
            if name == "tokenExchange" {
                expected.extend(["resource", "grantType", "parameters"].map(String::from));
            }
            // A secret is there by its variable.
            for variable in expected.clone() {
                if let Some(value) = variable.strip_suffix("Env") {
                    expected.insert(value.to_owned());
                }
                // Or the client authenticates with a file.
                if let Some(client) = variable.strip_suffix("SecretEnv") {
                    let file = [
                        "SecretFile",
                        "AssertionFile",
                        "AssertionType",
                        "Key",
                        "Certificate",
                    ];
                    expected.extend(file.map(|key| format!("{client}{key}")));
                    // And its tokens may be bound to a key.
                    let dpop = match client.strip_suffix("Client") {
                        Some(at) => format!("{at}Dpop"),
                        None => "dpop".to_owned(),
                    };
                    expected.insert(dpop);
                }
            }
            assert_eq!(
                properties(&schema, &alternative["properties"][name]),
                expected
            );
        }
    }
    let mapping: BTreeSet<_> = ["claim", "matcher", "priority", "roleArn"]
        .map(str::to_owned)
        .into();
    assert_eq!(
        properties(&schema, &schema["$defs"]["RoleMappingConfig"]),
        mapping
    );
}

// What leaves.

#[tokio::test]
async fn a_token_exchange_from_yaml_sends_the_exchanged_token() {
    let issuer = Issuer::start().await;
    issuer
        .know("token-of-alice", "alice")
        .require(Client::Basic {
            id: "gateway".into(),
            secret: SECRET.into(),
        });
    let backend = Backend::start().await;
    let config = from_yaml(&format!(
        r#"
backends:
  b:
    type: token_exchange
    tokenExchange:
      tokenUrl: {}
      clientId: gateway
      clientSecretEnv: GATEWAY_SECRET
      audience: mcp-backend
      scopes: [tools:read, tools:call]
"#,
        issuer.url()
    ));
    let client = client(&config, &resources(), &backend);
    assert_sent(&client, backend.request(user("alice", "token-of-alice"))).await;
    assert_eq!(
        backend.authorizations(),
        [["Bearer exchanged-for-alice-mcp-backend-1"]]
    );
    assert_eq!(issuer.request().one("scope"), Some("tools:read tools:call"));

    assert_sent(&client, backend.probe()).await;
    assert_eq!(issuer.count(CLIENT_CREDENTIALS, None), 1);
}

#[tokio::test]
async fn a_token_exchange_sends_the_token_that_was_chosen_under_its_own_type() {
    for (token_type, token, sent_type) in [
        (None, "upstream-access-token", "access_token"),
        (Some("jwt"), "upstream-access-token", "jwt"),
        (Some("id_token"), "upstream-id-token", "id_token"),
        (
            Some("urn:ietf:params:oauth:token-type:id_token"),
            "upstream-id-token",
            "id_token",
        ),
    ] {
        let issuer = Issuer::start().await;
        issuer.know(token, "alice");
        let backend = Backend::start().await;
        let config = config_of(&json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": issuer.url(), "subjectTokenType": token_type, "subjectProviderName": "okta",
        } }));
        let upstream = UpstreamToken::new(AccessToken::new("upstream-access-token").unwrap())
            .with_id_token(tower_identity::Secret::new("upstream-id-token").unwrap());
        let alice = Identity::builder("alice")
            .token(AccessToken::new("own-token").unwrap())
            .upstream("okta", upstream)
            .build()
            .unwrap();
        let client = client(&config, &resources(), &backend);
        assert_sent(&client, backend.request(alice)).await;
        let request = issuer.request();
        assert_eq!(request.one("subject_token"), Some(token));
        let urn = format!("urn:ietf:params:oauth:token-type:{sent_type}");
        assert_eq!(request.one("subject_token_type"), Some(&*urn));
    }
}

#[tokio::test]
async fn header_injection_from_yaml_sends_the_value_of_the_variable() {
    let backend = Backend::start().await;
    let config = from_yaml(
        "backends: {b: {type: header_injection, headerInjection: {headerName: Authorization, headerValueEnv: KEY}}}",
    );
    let client = client(&config, &resources(), &backend);
    assert_sent(&client, backend.request(None)).await;
    assert_eq!(backend.authorizations(), [[SECRET]]);
}

#[tokio::test]
async fn variables_are_those_of_the_process_unless_others_are_given() {
    let backend = Backend::start().await;
    let config = config_of(&json!({ "type": "header_injection", "headerInjection": {
        "headerName": "authorization", "headerValueEnv": "CARGO_PKG_NAME",
    } }));
    let resources = Resources::builder(http_client()).build().unwrap();
    let client = client(&config, &resources, &backend);
    assert_sent(&client, backend.request(None)).await;
    assert_eq!(backend.authorizations(), [["tower-identity"]]);
}

#[tokio::test]
async fn upstream_injection_from_yaml_sends_the_users_token() {
    let backend = Backend::start().await;
    let config =
        from_yaml("backends: {b: {type: upstream_inject, upstreamInject: {providerName: github}}}");
    let client = client(&config, &resources(), &backend);
    assert_sent(&client, backend.request(github_token("gho_1"))).await;
    assert_eq!(backend.authorizations(), [["Bearer gho_1"]]);
    let error = send(&client, backend.request(user("bob", "own"))).await;
    assert_eq!(error.unwrap_err().kind(), AuthErrorKind::MissingToken);
}

#[tokio::test]
async fn credentials_in_files_and_the_header_of_a_token_reach_the_strategies() {
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    issuer.know("alices-token", "alice");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credential");
    let header = |name: &str| {
        let last = backend.server.requests().pop().unwrap();
        last.all(name)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let jwt = support::token_stack::jwt(&json!({}), &json!({ "exp": 4_102_444_800_u64 }));
    for (key, content, assertion_type) in [
        ("clientSecretFile", SECRET, None),
        ("clientAssertionFile", &*jwt, None),
        ("clientAssertionFile", &*jwt, Some("jwt-spiffe")),
    ] {
        std::fs::write(&path, content).unwrap();
        let mut exchange = json!({
            "tokenUrl": issuer.url(), "clientId": "gateway", "audience": key,
            "headerName": "x-api-key", "headerPrefix": "Key ",
        });
        exchange[key] = json!(path);
        if let Some(assertion_type) = assertion_type {
            exchange["clientAssertionType"] = json!(assertion_type);
        }
        let config = config_of(&json!({ "type": "token_exchange", "tokenExchange": exchange }));
        let client = client(&config, &resources(), &backend);
        let request = backend.request(user("alice", "alices-token"));
        send(&client, request).await.unwrap();
        assert!(header("x-api-key")[0].starts_with("Key exchanged-for-alice-"));
        assert!(header("authorization").is_empty());
        let sent = issuer.requests().pop().unwrap();
        let is_basic = sent.headers.contains_key("authorization");
        assert_eq!(is_basic, key == "clientSecretFile");
        assert_eq!(sent.one("client_assertion").is_some(), !is_basic);
        if let Some(sent) = sent.one("client_assertion_type") {
            assert!(sent.ends_with(assertion_type.unwrap_or("jwt-bearer")));
        }
    }
}

#[tokio::test]
async fn claims_from_yaml_are_sent_and_the_subject_if_none_is_listed() {
    let backend = Backend::start().await;
    let claims = json!({ "email": "alice@example.com", "name": "Alice" });
    let alice = Identity::builder("alice").claims(claims.as_object().unwrap().clone());
    let alice = alice.build().unwrap();
    for (block, sent) in [
        (
            "{claims: [sub, email]}",
            [Some("alice"), Some("alice@example.com"), None],
        ),
        ("{}", [Some("alice"), None, None]),
    ] {
        let text = format!("backends: {{b: {{type: claim_injection, claimInjection: {block}}}}}");
        let client = client(&from_yaml(&text), &resources(), &backend);
        assert_sent(&client, backend.request(alice.clone())).await;
        let last = backend.server.requests().pop().unwrap();
        for (name, value) in ["sub", "email", "name"].into_iter().zip(sent) {
            let header = format!("x-claim-{name}");
            assert_eq!(last.all(&header), value.into_iter().collect::<Vec<_>>());
        }
    }
}

#[cfg(feature = "incoming")]
#[tokio::test]
async fn cross_app_access_exchanges_the_refresh_token_that_the_application_says_where_to_find() {
    use std::time::SystemTime;
    use tower_identity::{
        MemoryStore, Secret, UpstreamTokenStore, UpstreamTokens,
        upstream::{Provider, ProviderTokens, RefreshTokenGrant},
    };

    let (idp, server) = (Issuer::start().await, Issuer::start().await);
    let backend = Backend::start().await;
    let id_jag = support::token_stack::jwt(
        &json!({ "typ": "oauth-id-jag+jwt" }),
        &json!({ "iss": "https://idp.example.com", "aud": "https://as.example.com", "exp": 4_102_444_800_u64 }),
    );
    server.know(&id_jag, "alice");
    idp.next(support::issuer::Behaviour::json(
        200,
        &json!({
            "access_token": id_jag, "token_type": "N_A", "refresh_token": "refresh-2",
            "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        }),
    ));
    let store = MemoryStore::new();
    let token = UpstreamToken::new(AccessToken::new("idp-token").unwrap());
    let tokens = ProviderTokens::new(token.clone(), SystemTime::now())
        .with_refresh_token(Secret::new("refresh-1").unwrap());
    store
        .put(&support::owner("alice"), "okta", &tokens)
        .await
        .unwrap();
    let grant = RefreshTokenGrant::new(support::token_stack::endpoint(&idp));
    let okta = Provider::builder("okta", grant).build().unwrap();
    let upstream = UpstreamTokens::new(store.clone(), [okta]);
    let resources = builder().upstream_tokens(upstream).build().unwrap();
    let config = config_of(&json!({ "type": "xaa", "xaa": {
        "idpTokenUrl": idp.url(), "idpIssuer": "https://idp.example.com", "subjectProviderName": "okta",
        "subjectTokenType": "refresh_token", "targetTokenUrl": server.url(),
        "targetAudience": "https://as.example.com",
    }}));
    let client = client(&config, &resources, &backend);
    let alice = Identity::builder("alice")
        .issuer("https://issuer.example.com")
        .upstream("okta", token);
    send(&client, backend.request(alice.build().unwrap()))
        .await
        .unwrap();
    assert_eq!(idp.request().one("subject_token"), Some("refresh-1"));
    let stored = store.load(&support::owner("alice")).await.unwrap();
    let successor = stored["okta"].tokens().refresh_token().unwrap();
    assert_eq!(successor.expose(), "refresh-2");
}

#[tokio::test]
async fn unauthenticated_adds_nothing() {
    let backend = Backend::start().await;
    let config = from_yaml("default: {type: unauthenticated}");
    let client = client(&config, &resources(), &backend);
    assert_sent(&client, backend.request(github_token("gho_1"))).await;
    assert_eq!(backend.authorizations(), [[""; 0]]);
}

#[tokio::test]
async fn on_behalf_of_asks_for_its_scopes_else_for_its_audience_and_gives_tokens_up_early() {
    let issuer = Issuer::start().await;
    issuer
        .know("token-of-alice", "alice")
        .require(Client::Post {
            id: "gateway".into(),
            secret: SECRET.into(),
        });
    let backend = Backend::start().await;
    let clock = clock();
    let resources = builder().clock(clock.clone()).build().unwrap();
    let config = |target: Value| {
        let mut obo = json!({
            "tokenUrl": issuer.url(), "clientId": "gateway", "clientSecret": SECRET, "cacheSkewSeconds": 3000,
            "audience": "api://backend/.default",
        });
        obo["scopes"] = target;
        config_of(&json!({ "type": "obo", "obo": obo }))
    };
    let by_audience = client(&config(json!([])), &resources, &backend);
    let by_scopes = client(&config(json!(["a", "b"])), &resources, &backend);
    let alice = || backend.request(user("alice", "token-of-alice"));
    assert_sent(&by_audience, alice()).await;
    assert_sent(&by_scopes, alice()).await;
    let scopes: Vec<_> = issuer
        .requests()
        .iter()
        .map(|request| request.one("scope").unwrap().to_owned())
        .collect();
    assert_eq!(scopes, ["api://backend/.default", "a b"]);
    assert_eq!(issuer.count(JWT_BEARER, Some("alice")), 2);

    clock.advance(seconds(400));
    assert_sent(&by_scopes, alice()).await;
    assert_eq!(issuer.count(JWT_BEARER, Some("alice")), 2);
    clock.advance(seconds(200));
    assert_sent(&by_scopes, alice()).await;
    assert_eq!(issuer.count(JWT_BEARER, Some("alice")), 3);
}

#[tokio::test]
async fn cross_app_access_from_json_goes_through_both_endpoints() {
    let (idp, target) = (Issuer::start().await, Issuer::start().await);
    let backend = Backend::start().await;
    let id_token = jwt(
        &json!({ "alg": "none" }),
        &json!({ "iss": "https://idp.example.com", "sub": "alice", "exp": 4_000_000_000_u64 }),
    );
    let assertion = jwt(
        &json!({ "typ": "oauth-id-jag+jwt" }),
        &json!({
            "iss": "https://idp.example.com", "aud": "https://as.example.com", "exp": 4_000_000_000_u64,
            "resource": "https://mcp.example.com",
        }),
    );
    idp.next(support::issuer::Behaviour::json(
        200,
        &json!({
            "access_token": assertion,
            "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
            "token_type": "N_A",
        }),
    ));
    target.know(&assertion, "alice").require(Client::Basic {
        id: "at-target".into(),
        secret: SECRET.into(),
    });
    let config = config_of(&json!({ "type": "xaa", "xaa": {
        "idpTokenUrl": idp.url(), "idpClientId": "at-idp",
        "targetTokenUrl": target.url(), "targetClientId": "at-target", "targetClientSecretEnv": "TARGET",
        "targetAudience": "https://as.example.com", "targetResource": "https://mcp.example.com",
        "scopes": ["chat.read"], "targetScopes": ["chat.list"], "subjectProviderName": "idp",
    } }));
    let client = client(&config, &resources(), &backend);
    assert_sent(
        &client,
        backend.request(user_with_id_token("alice", &id_token)),
    )
    .await;
    let asked = idp.request();
    assert_eq!(asked.one("client_id"), Some("at-idp"));
    assert_eq!(asked.one("audience"), Some("https://as.example.com"));
    assert_eq!(asked.one("resource"), Some("https://mcp.example.com"));
    assert_eq!(asked.one("scope"), Some("chat.read"));
    assert_eq!(target.request().one("scope"), Some("chat.list"));
    assert_eq!(target.count(JWT_BEARER, Some("alice")), 1);
    assert_eq!(backend.authorizations().len(), 1);
}

#[cfg(feature = "aws-sts")]
#[tokio::test]
async fn aws_sts_from_yaml_signs_as_the_role_that_the_claims_choose() {
    let sts = support::http_server::HttpServer::start(|_| async {
        let answer = r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
            <AssumeRoleWithWebIdentityResult><Credentials>
              <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
              <SessionToken>session-token</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>
            </Credentials></AssumeRoleWithWebIdentityResult>
            <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>
            </AssumeRoleWithWebIdentityResponse>"#;
        http::Response::new(support::http_server::server_body(http_body_util::Full::from(answer)))
    })
    .await;
    let backend = Backend::start().await;
    let resources = builder().sts_endpoint(sts.uri("")).build().unwrap();
    let config = from_yaml(
        r#"
backends:
  b:
    type: aws_sts
    awsSts:
      region: eu-west-1
      roleMappings:
        - claim: admins
          roleArn: arn:aws:iam::123456789012:role/Admin
"#,
    );
    let client = client(&config, &resources, &backend);
    let of_group = |group: &str| {
        let claims = json!({ "sub": "alice", "groups": [group] });
        let alice = Identity::builder("alice")
            .token(AccessToken::new("token-of-alice").unwrap())
            .claims(claims.as_object().unwrap().clone())
            .build();
        backend.request(alice.unwrap())
    };
    assert_sent(&client, of_group("admins")).await;
    assert_sent(&client, of_group("admins")).await;
    assert_eq!(sts.requests().len(), 1);
    let signature = &backend.authorizations()[1][0];
    assert!(
        signature.contains("Credential=ASIAEXAMPLE/") && signature.contains("/eu-west-1/aws-mcp/"),
        "{signature}"
    );
    let error = send(&client, of_group("guests")).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
}

#[tokio::test]
async fn a_strategy_of_ones_own_is_chosen_by_the_name_it_was_registered_under() {
    let backend = Backend::start().await;
    let own = strategy_fn(async |mut request: Request<Body>| {
        let value = http::HeaderValue::from_static("Own scheme");
        request.headers_mut().insert("authorization", value);
        Ok(request)
    });
    let resources = builder().strategy("corp_sso", own).build().unwrap();
    let config = from_yaml("backends: {b: {type: corp_sso}}");
    let client = client(&config, &resources, &backend);
    assert_sent(&client, backend.request(None)).await;
    assert_eq!(backend.authorizations(), [["Own scheme"]]);
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(written["backends"]["b"], json!({ "type": "corp_sso" }));
}

#[test]
fn a_strategy_cannot_be_registered_as_a_type_of_the_crate_or_twice() {
    let own = || strategy_fn(async |request: Request<Body>| Ok(request));
    for name in ["obo", "token_exchange", "", " "] {
        let error = builder().strategy(name, own()).build().unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "strategy[0]");
    }
    let twice = builder().strategy("own", own()).strategy("own", own());
    twice.build().unwrap_err();
}

#[test]
fn a_layer_is_bound_to_the_origin_that_it_was_asked_for() {
    let config = from_yaml("default: {type: unauthenticated}");
    let layer = config.layer_for("b", origin(), &resources()).unwrap();
    assert!(format!("{layer:?}").contains("mcp.example.com"));
}

// Credentials that are shared.

async fn issuer_of_alice() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.know("token-of-alice", "alice");
    issuer
}

#[tokio::test]
async fn backends_that_are_configured_alike_share_their_credentials() {
    let issuer = issuer_of_alice().await;
    let backend = Backend::start().await;
    let config = from_json(&json!({ "backends": {
        "one": exchange_at(&issuer, "same"),
        "other": exchange_at(&issuer, "same"),
        "stranger": exchange_at(&issuer, "another"),
    } }));
    let resources = resources();
    for (name, exchanges) in [("one", 1), ("one", 1), ("other", 1), ("stranger", 2)] {
        let layer = config.layer_for(name, backend.server.origin(), &resources);
        let client = stack(layer.unwrap());
        assert_sent(&client, backend.request(user("alice", "token-of-alice"))).await;
        assert_eq!(
            issuer.count(TOKEN_EXCHANGE, Some("alice")),
            exchanges,
            "{name}"
        );
    }
}

#[tokio::test]
async fn resources_with_the_same_cache_share_credentials() {
    let issuer = issuer_of_alice().await;
    let backend = Backend::start().await;
    let cache = CredentialCache::builder().build().unwrap();
    for _ in 0..2 {
        let resources = builder().token_cache(cache.clone()).build().unwrap();
        let client = client(&config_of(&exchange_at(&issuer, "a")), &resources, &backend);
        assert_sent(&client, backend.request(user("alice", "token-of-alice"))).await;
    }
    assert_eq!(issuer.count(TOKEN_EXCHANGE, Some("alice")), 1);
}

#[tokio::test]
async fn a_secret_that_changed_is_another_configuration() {
    let issuer = issuer_of_alice().await;
    let backend = Backend::start().await;
    let resources = resources();
    for (secret, exchanges) in [("one", 1), ("other", 2), ("one", 2)] {
        let mut exchange = exchange_at(&issuer, "a");
        exchange["tokenExchange"]["clientSecretEnv"] = json!(null);
        exchange["tokenExchange"]["clientSecret"] = json!(secret);
        let client = client(&config_of(&exchange), &resources, &backend);
        assert_sent(&client, backend.request(user("alice", "token-of-alice"))).await;
        assert_eq!(issuer.count(TOKEN_EXCHANGE, Some("alice")), exchanges);
    }
}

#[tokio::test]
async fn strategies_that_differ_in_their_cache_skew_do_not_share_tokens() {
    let issuer = issuer_of_alice().await;
    let backend = Backend::start().await;
    let resources = resources();
    for (skew, exchanges) in [(0, 1), (60, 2), (0, 2), (60, 2)] {
        let config = config_of(&json!({ "type": "obo", "obo": {
            "tokenUrl": issuer.url(), "clientId": "gateway", "clientSecretEnv": "X", "audience": "a",
            "cacheSkewSeconds": skew,
        } }));
        let client = client(&config, &resources, &backend);
        assert_sent(&client, backend.request(user("alice", "token-of-alice"))).await;
        assert_eq!(issuer.count(JWT_BEARER, Some("alice")), exchanges);
    }
}

/// The statuses of two calls, for which the first token of the issuer does not suffice.
async fn statuses_where_write_is_needed(layer: &AuthLayer<Arc<dyn Strategy<Body>>>) -> [u16; 2] {
    let backend = tower::service_fn(|request: Request<Body>| {
        let is_content = request.headers()["authorization"] != "Bearer exchanged-for-alice-b-1";
        let mut response = http::Response::new(Body::default());
        if !is_content {
            *response.status_mut() = http::StatusCode::FORBIDDEN;
            let challenge = r#"Bearer error="insufficient_scope", scope="write""#;
            let challenge = challenge.parse().unwrap();
            response.headers_mut().insert("www-authenticate", challenge);
        }
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    let client = tower::Layer::layer(&layer.clone().retry_rejected(), backend);
    let mut statuses = [0; 2];
    for status in &mut statuses {
        let mut request = Request::post("https://mcp.example.com/mcp")
            .body(Body::default())
            .unwrap();
        let alice = user("alice", "token-of-alice");
        request.extensions_mut().insert(alice);
        let response = tower::ServiceExt::oneshot(client.clone(), request).await;
        *status = response.unwrap().status().as_u16();
    }
    statuses
}

#[tokio::test]
async fn the_scopes_of_step_up_are_those_of_the_key_and_follow_its_replacement() {
    let with = |issuer: &Issuer, step_up: &[&str]| {
        config_of(&json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": issuer.url(), "audience": "b", "scopes": ["read"],
            "stepUpScopes": step_up,
        } }))
    };
    for (step_up, statuses) in [
        (&[][..], [403, 403]),
        (&["admin"], [403, 403]),
        (&["admin", "write"], [200, 200]),
    ] {
        let issuer = issuer_of_alice().await;
        let config = with(&issuer, step_up);
        let layer = config.layer_for("b", origin(), &resources()).unwrap();
        assert_eq!(statuses_where_write_is_needed(&layer).await, statuses);

        // What was allowed before is forgotten.
        let issuer = issuer_of_alice().await;
        let live = LiveOutgoingAuth::new(with(&issuer, &["write"]), resources()).unwrap();
        let layer = live.layer_for("b", origin()).unwrap();
        assert_eq!(statuses_where_write_is_needed(&layer).await, [200, 200]);
        live.replace(with(&issuer, step_up)).unwrap();
        assert_eq!(statuses_where_write_is_needed(&layer).await, statuses);
    }
}

#[tokio::test]
async fn a_scope_that_was_taken_out_of_the_configuration_is_not_asked_for_by_a_later_step_up() {
    let issuer = issuer_of_alice().await;
    let with = |scopes: &[&str]| {
        config_of(&json!({ "type": "token_exchange", "tokenExchange": {
            "tokenUrl": issuer.url(), "audience": "b", "scopes": scopes, "stepUpScopes": ["write"],
        } }))
    };
    let live = LiveOutgoingAuth::new(with(&["read", "admin"]), resources()).unwrap();
    let layer = live.layer_for("b", origin()).unwrap();
    assert_eq!(statuses_where_write_is_needed(&layer).await, [200, 200]);
    live.replace(with(&["read"])).unwrap();
    // It refuses a request for any other scope.
    issuer.allow_scopes(&["read", "write"]);
    assert_eq!(statuses_where_write_is_needed(&layer).await, [200, 200]);
}

// A configuration that is replaced.

#[tokio::test]
async fn unchanged_backends_keep_their_credentials_when_the_configuration_is_replaced() {
    let issuer = issuer_of_alice().await;
    let backend = Backend::start().await;
    let changed = |audience: &str| {
        from_json(&json!({ "backends": {
            "same": exchange_at(&issuer, "same"),
            "changed": exchange_at(&issuer, audience),
        } }))
    };
    let live = LiveOutgoingAuth::new(changed("before"), resources()).unwrap();
    let client_of = |name: &str| {
        let layer = live.layer_for(name, backend.server.origin());
        stack(layer.unwrap())
    };
    let (same, other) = (client_of("same"), client_of("changed"));
    let alice = || backend.request(user("alice", "token-of-alice"));
    assert_sent(&same, alice()).await;
    assert_sent(&other, alice()).await;
    live.replace(changed("after")).unwrap();
    assert_sent(&same, alice()).await;
    assert_sent(&other, alice()).await;
    assert_sent(&client_of("changed"), alice()).await;
    assert_eq!(
        backend.authorizations().concat(),
        [
            "Bearer exchanged-for-alice-same-1",
            "Bearer exchanged-for-alice-before-2",
            "Bearer exchanged-for-alice-same-1",
            "Bearer exchanged-for-alice-after-3",
            "Bearer exchanged-for-alice-after-3",
        ]
    );
}

#[tokio::test]
async fn a_request_that_has_begun_goes_on_with_the_configuration_it_began_with() {
    let issuer = issuer_of_alice().await;
    let backend = Backend::start().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    issuer.next(support::issuer::Behaviour::mint().with_permit_of(&gate));
    let live =
        LiveOutgoingAuth::new(config_of(&exchange_at(&issuer, "before")), resources()).unwrap();
    let client = stack(live.layer_for("b", backend.server.origin()).unwrap());
    let running = tokio::spawn({
        let (client, request) = (
            client.clone(),
            backend.request(user("alice", "token-of-alice")),
        );
        async move { send(&client, request).await.map(|_| ()) }
    });
    while issuer.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    live.replace(config_of(&exchange_at(&issuer, "after")))
        .unwrap();
    assert_sent(&client, backend.request(user("alice", "token-of-alice"))).await;
    gate.add_permits(1);
    running.await.unwrap().unwrap();
    assert_eq!(
        backend.authorizations().concat(),
        [
            "Bearer exchanged-for-alice-after-2",
            "Bearer exchanged-for-alice-before-1",
        ]
    );
}

#[tokio::test]
async fn a_configuration_with_a_fault_does_not_replace_one_without() {
    let backend = Backend::start().await;
    let before =
        from_yaml("backends: {b: {type: upstream_inject, upstreamInject: {providerName: github}}}");
    let live = LiveOutgoingAuth::new(before, resources()).unwrap();
    let client = stack(live.layer_for("b", backend.server.origin()).unwrap());
    live.replace(from_yaml(
        "backends: {b: {type: unauthenticated}, c: {type: obo}}",
    ))
    .unwrap_err();
    assert_sent(&client, backend.request(github_token("gho_1"))).await;
    assert_eq!(backend.authorizations(), [["Bearer gho_1"]]);
    LiveOutgoingAuth::new(from_yaml("backends: {c: {type: obo}}"), resources()).unwrap_err();
}

#[tokio::test]
async fn a_backend_that_was_removed_is_refused_until_it_is_configured_again() {
    let backend = Backend::start().await;
    let with = || from_yaml("backends: {b: {type: unauthenticated}}");
    let live = LiveOutgoingAuth::new(with(), resources()).unwrap();
    let client = stack(live.layer_for("b", backend.server.origin()).unwrap());
    live.replace(OutgoingAuthConfig::default()).unwrap();
    let error = send(&client, backend.request(None)).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert!(backend.authorizations().is_empty(), "nothing was sent");
    live.replace(with()).unwrap();
    assert_sent(&client, backend.request(None)).await;
}

// Any document.

fn any_value() -> impl proptest::strategy::Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("https://idp.example.com/token")),
        Just(json!("arn:aws:iam::123456789012:role/X")),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any_name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_name() -> impl proptest::strategy::Strategy<Value = String> {
    let known = "default backends source type headerInjection headerName headerValue headerValueEnv tokenExchange tokenUrl \
                 clientId clientSecret scopes awsSts region roleMappings roleArn claim matcher obo xaa";
    let known: Vec<_> = known.split_whitespace().map(str::to_owned).collect();
    prop_oneof![4 => prop::sample::select(known), 1 => any::<String>()]
}

/// A document that is right but for some members, which have any value.
fn any_document() -> impl proptest::strategy::Strategy<Value = Value> {
    let right: Value = serde_saphyr::from_str(EVERY_TYPE).unwrap();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any_value()), 0..4);
    changes.prop_map(move |changes| {
        let mut document = right.clone();
        for (index, value) in changes {
            let paths = paths_of(&document, "");
            let path: &String = index.get(&paths);
            *document.pointer_mut(path).unwrap() = value;
        }
        document
    })
}

fn paths_of(value: &Value, path: &str) -> Vec<String> {
    let mut paths = vec![path.to_owned()];
    let name = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                paths.extend(paths_of(value, &name(member)));
            }
        }
        Value::Array(members) => {
            for (index, value) in members.iter().enumerate() {
                paths.extend(paths_of(value, &name(&index.to_string())));
            }
        }
        _ => {}
    }
    paths
}

fn assert_is_read_or_refused(config: &OutgoingAuthConfig) {
    let resources = resources();
    match config.check(&resources) {
        Err(error) => assert!(!error.faults().is_empty()),
        Ok(()) => {
            let written = serde_json::to_value(config).unwrap();
            let again = from_json(&written);
            // What does not look like the name of a variable is not written.
            let is_whole = !written.to_string().contains("[redacted]");
            assert_eq!(again.check(&resources).is_ok(), is_whole);
            if is_whole {
                assert_eq!(serde_json::to_value(&again).unwrap(), written);
            }
        }
    }
    let _ = config.layer_for("jira", origin(), &resources);
}

fn any_members() -> impl proptest::strategy::Strategy<Value = serde_json::Map<String, Value>> {
    prop::collection::vec((any_name(), any_value()), 0..4)
        .prop_map(|members| members.into_iter().collect())
}

/// Neither read nor told about.
fn is_lost(name: &str, config: &OutgoingAuthConfig) -> bool {
    let is_told = |error: ConfigError| {
        let mut faults = error.faults().iter();
        faults.any(|fault| fault.backend() == Some(name))
    };
    !config.backends.contains_key(name) && !config.check(&resources()).is_err_and(is_told)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_document_is_read_or_refused_and_what_is_read_makes_the_round_trip(document in any_document()) {
        if let Ok(config) = serde_json::from_value::<OutgoingAuthConfig>(document) {
            assert_is_read_or_refused(&config);
        }
    }

    #[test]
    fn no_backend_is_lost_without_a_fault(name in any::<String>(), mut members in any_members()) {
        members.entry("type").or_insert_with(|| json!(null));
        let config = from_json(&json!({ "backends": { name.clone(): members } }));
        assert!(!is_lost(&name, &config), "{config:?}");
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Ok(config) = serde_saphyr::from_str::<OutgoingAuthConfig>(&text) {
            assert_is_read_or_refused(&config);
        }
    }

    #[test]
    fn any_value_is_read_or_refused(value in any_value()) {
        if let Ok(config) = serde_json::from_value::<OutgoingAuthConfig>(value) {
            assert_is_read_or_refused(&config);
        }
    }
}
