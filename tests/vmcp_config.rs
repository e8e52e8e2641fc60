//! The whole file of a ToolHive vMCP: what is read, what is said about the rest, and what is wrong with it.
#![cfg(feature = "config")]

mod support;

use std::{fs, path::PathBuf};

use proptest::{
    prelude::{Just, ProptestConfig, any, prop, prop_oneof, proptest},
    strategy::Strategy,
};
use serde_json::{Value, json};
use support::token_stack::{Body, http_client};
use tower_identity::config::{ConfigError, Resources, Vmcp, VmcpBackendConfig, VmcpConfig};

/// ToolHive's own example with all its options.
const EXAMPLE: &str = include_str!("data/toolhive/vmcp-config.yaml");

fn from_json(document: &Value) -> VmcpConfig {
    serde_json::from_value(document.clone()).unwrap()
}

fn resources() -> Resources<Body> {
    Resources::builder(http_client())
        .environment(|name| name.starts_with("GITHUB_").then(|| "gho_token".to_owned()))
        .build()
        .unwrap()
}

fn error_of(file: VmcpConfig) -> ConfigError {
    let built: Result<Vmcp<Body>, _> = file.build(&resources());
    built.unwrap_err()
}

fn faults(document: &Value) -> Vec<String> {
    let error = error_of(from_json(document));
    error.faults().iter().map(ToString::to_string).collect()
}

/// The smallest file without a fault, whatever the features are.
fn smallest() -> Value {
    json!({
        "incomingAuth": { "type": "anonymous" },
        "outgoingAuth": { "source": "inline", "default": { "type": "unauthenticated" } },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = smallest();
    change(&mut document);
    document
}

fn assert_fault(document: &Value, expected: &str) {
    let found = faults(document);
    let (place, message) = expected.split_once(": ").unwrap();
    assert!(
        found.len() == 1
            && found[0].starts_with(&format!("{place}: "))
            && found[0].contains(message),
        "{document} should be at fault with {expected}, and is with {found:#?}"
    );
}

fn unread(file: VmcpConfig) -> Vec<String> {
    let vmcp: Vmcp<Body> = file.build(&resources()).unwrap();
    vmcp.unread()
        .iter()
        .map(|unread| unread.key().to_owned())
        .collect()
}

#[cfg(feature = "incoming")]
#[test]
fn toolhives_own_example_is_read_and_what_is_left_to_the_application_is_named() {
    let file: VmcpConfig = serde_saphyr::from_str(EXAMPLE).unwrap();
    let found = error_of(file.clone());
    assert_eq!(found.faults().len(), 1, "{found}");
    assert_eq!(found.faults()[0].key(), "incomingAuth.authz");
    let said = found.to_string();
    assert!(said.contains("policies, which this crate does not enforce"));

    let mut file = file.handled_by_application(["incomingAuth.authz", "name", "telemetry"]);
    let url = "https://mcp.example.com/mcp";
    file.backends.push(VmcpBackendConfig::new("github", url));
    let vmcp: Vmcp<Body> = file.clone().build(&resources()).unwrap();
    let validator = vmcp.token_validator().unwrap();
    let metadata = validator.resource_metadata().unwrap();
    assert_eq!(metadata.path(), "/.well-known/oauth-protected-resource/mcp");
    assert_eq!(vmcp.backends()[0].name(), "github");
    assert_eq!(vmcp.backends()[0].url(), url);
    assert_eq!(
        vmcp.backends()[0].origin().to_string(),
        "https://mcp.example.com"
    );
    assert_eq!(
        unread(file),
        [
            "groupRef",
            "aggregation",
            "operational",
            "incomingAuth.oidc.clientId",
            "incomingAuth.oidc.clientSecretEnv",
        ]
    );
}

/// As the template in ToolHive's `pkg/vmcp/cli/init.go` has it.
#[test]
fn the_file_that_toolhive_starts_with_says_what_its_backends_lack() {
    let mut file = json!({
        "name": "team-vmcp",
        "groupRef": "team",
        "incomingAuth": { "type": "anonymous" },
        "outgoingAuth": { "source": "inline" },
        "aggregation": { "conflictResolution": "prefix" },
        "backends": [
            { "name": "github", "url": "http://127.0.0.1:4001/mcp", "transport": "streamable-http" },
        ],
    });
    let told = faults(&file);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("add it there with the `type` `unauthenticated`"),
        "{told:?}"
    );
    file["outgoingAuth"]["backends"] = json!({ "github": { "type": "unauthenticated" } });
    let vmcp = from_json(&file).build(&resources()).unwrap();
    assert_eq!(vmcp.backends().len(), 1);
}

/// The YAML keys of `Config`, `IncomingAuthConfig`, `OIDCConfig` and `StaticBackendConfig` in
/// <https://github.com/stacklok/toolhive/blob/e25de16cf9720b13cf0b400c861a2f6840e2763c/pkg/vmcp/config/config.go>.
#[test]
fn no_key_of_toolhive_is_unknown() {
    let top = "name groupRef backends incomingAuth outgoingAuth aggregation compositeTools compositeToolRefs operational \
               metadata telemetry audit optimizer codeMode sessionStorage rateLimiting passthroughHeaders";
    let incoming = "type oidc authz";
    let oidc = "issuer clientId clientSecretEnv audience resource jwksUrl introspectionUrl scopes \
                protectedResourceAllowPrivateIp jwksAllowPrivateIp insecureAllowHttp caBundlePath";
    let backend = "name url transport type caBundlePath metadata";
    let every = |keys: &str| -> Value {
        keys.split_whitespace()
            .map(|key| (key.to_owned(), json!([])))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let mut document = every(top);
    document["backends"] = json!([every(backend)]);
    document["incomingAuth"] = every(incoming);
    document["incomingAuth"]["oidc"] = every(oidc);
    let found = faults(&document);
    assert!(!found.is_empty());
    assert!(
        !found.iter().any(|fault| fault.contains("unknown")),
        "{found:#?}"
    );

    document["incommingAuth"] = json!({});
    let found = faults(&document);
    let expected = "incommingAuth: unknown key, did you mean `incomingAuth`?";
    assert!(
        found.iter().any(|fault| fault.starts_with(expected)),
        "{found:#?}"
    );
}

#[test]
fn a_key_that_is_not_read_is_named_unless_the_application_handles_it() {
    let document = with(|file| {
        file["aggregation"] = json!({ "conflictResolution": "prefix" });
        file["audit"] = json!({});
        file["outgoingAuth"]["backends"] = json!({ "githb": { "type": "unauthenticated" } });
        file["backends"] = json!([
            { "name": "github", "url": "https://mcp.example.com/mcp", "transport": "sse" },
        ]);
    });
    let log = support::log::Log::default();
    let (said, keys) = {
        let _guard = log.capture("warn");
        let vmcp: Vmcp<Body> = from_json(&document).build(&resources()).unwrap();
        let said: Vec<_> = vmcp.unread().iter().map(ToString::to_string).collect();
        (said, log.text())
    };
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said[0].starts_with("aggregation: is for an MCP server"));
    assert!(said[1].starts_with("audit: "));
    assert!(said[2].starts_with("outgoingAuth.backends.githb: is for no backend"));
    assert!(keys.contains("aggregation, audit"), "{keys}");

    let handled = from_json(&document).handled_by_application(["aggregation", "audit"]);
    assert_eq!(unread(handled), [""]);
}

#[test]
fn what_protects_is_a_fault_until_the_application_says_that_it_does_it() {
    let authz = json!({ "type": "cedar", "policies": ["permit(principal, action, resource);"] });
    for (document, key) in [
        (
            with(|file| file["incomingAuth"]["authz"] = authz),
            "incomingAuth.authz",
        ),
        (
            with(|file| file["rateLimiting"] = json!({ "perUser": {} })),
            "rateLimiting",
        ),
    ] {
        assert_fault(&document, &format!("{key}: does not enforce"));
        let handled = from_json(&document).handled_by_application([key]);
        assert!(unread(handled).is_empty());
    }
    let policies = json!({ "type": "none", "policies": ["permit(principal, action, resource);"] });
    let contradiction = with(|file| file["incomingAuth"]["authz"] = policies);
    assert_fault(&contradiction, "incomingAuth.authz: does not enforce");
    let none = with(|file| file["incomingAuth"]["authz"] = json!({ "type": "none" }));
    assert!(unread(from_json(&none)).is_empty());
}

#[test]
fn each_fault_of_the_file_names_its_key() {
    let backend = |change: fn(&mut Value)| {
        let mut backend =
            json!({ "name": "b", "url": "https://mcp.example.com", "transport": "sse" });
        change(&mut backend);
        with(|file| file["backends"] = json!([backend]))
    };
    for (document, expected) in [
        (
            with(|file| file["incomingAuth"] = Value::Null),
            "incomingAuth: is missing",
        ),
        (
            with(|file| file["outgoingAuth"] = Value::Null),
            "outgoingAuth: is missing",
        ),
        (
            with(|file| file["outgoingAuth"] = json!([])),
            "outgoingAuth: expected a map, found a list",
        ),
        (
            with(|file| file["outgoingAuth"]["source"] = json!("file")),
            "outgoingAuth.source: is neither",
        ),
        (
            with(|file| file["outgoingAuth"]["default"]["type"] = json!("obo")),
            "outgoingAuth.default.obo: is missing",
        ),
        (
            with(|file| file["incomingAuth"] = json!({})),
            "incomingAuth.type: is missing",
        ),
        (
            with(|file| file["incomingAuth"]["type"] = json!("local")),
            "incomingAuth.type: `local` takes the user of the operating system",
        ),
        (
            with(|file| file["incomingAuth"]["type"] = json!("oidc")),
            "incomingAuth.oidc: is missing",
        ),
        (
            with(|file| file["incomingAuth"]["oidcConfigRef"] = json!({})),
            "incomingAuth.oidcConfigRef: unknown key",
        ),
        (
            with(|file| file["passthroughHeaders"] = json!(["x-a", "authorization"])),
            "passthroughHeaders[1]: ",
        ),
        (
            with(|file| file["passthroughHeaders"] = json!(["x a"])),
            "passthroughHeaders[0]: ",
        ),
        (
            backend(|b| b["name"] = Value::Null),
            "backends[0].name: is missing",
        ),
        (
            backend(|b| b["url"] = Value::Null),
            "backends[0].url: is missing",
        ),
        (
            backend(|b| b["url"] = json!("http://mcp.example.com")),
            "backends[0].url: for a backend that `VmcpConfig::insecure_backend` names",
        ),
        (
            backend(|b| b["url"] = json!("mcp.example.com")),
            "backends[0].url: is not an absolute URL",
        ),
        (
            backend(|b| b["transport"] = json!("stdio")),
            "backends[0].transport: is neither",
        ),
        (
            backend(|b| b["transport"] = Value::Null),
            "backends[0].transport: is missing",
        ),
        (
            backend(|b| b["type"] = json!("pod")),
            "backends[0].type: is neither",
        ),
        (
            backend(|b| b["URL"] = json!("x")),
            "backends[0].URL: did you mean `url`?",
        ),
        (
            with(|file| {
                file["outgoingAuth"]["default"] = Value::Null;
                file["backends"] = json!([
                    { "name": "b", "url": "https://mcp.example.com", "transport": "sse" },
                ]);
            }),
            "backends[0].name: `b` is not among the backends of `outgoingAuth`",
        ),
    ] {
        assert_fault(&document, expected);
    }
    let twice = json!({ "name": "b", "url": "https://mcp.example.com", "transport": "sse" });
    assert_fault(
        &with(|file| file["backends"] = json!([twice, twice])),
        "backends[1].name: is the name of an earlier backend",
    );
}

#[test]
fn plain_http_is_for_the_backends_that_the_application_names() {
    let document = with(|file| {
        file["backends"] = json!([
            { "name": "b", "url": "http://b.svc.cluster.local:8080/mcp", "transport": "sse", "type": "" },
        ]);
    });
    let vmcp: Vmcp<Body> = from_json(&document)
        .insecure_backend("b")
        .build(&resources())
        .unwrap();
    assert_eq!(
        vmcp.backends()[0].origin().to_string(),
        "http://b.svc.cluster.local:8080"
    );
}

#[test]
fn a_document_of_another_kind_is_told_what_it_is() {
    let block = json!({ "source": "inline", "default": { "type": "unauthenticated" } });
    assert_fault(&block, "outgoingAuth: looks like this block alone");
    let resource =
        json!({ "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "VirtualMCPServer" });
    assert_fault(&resource, "kind: a resource of Kubernetes");
}

/// A file in a folder of the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn with_ca_bundle(path: &str) -> Value {
    with(|file| {
        file["backends"] = json!([{
            "name": "b", "url": "https://mcp.example.com", "transport": "sse", "type": "entry",
            "caBundlePath": path,
        }]);
    })
}

#[test]
fn a_ca_bundle_is_read_when_the_file_is_loaded_and_its_faults_have_its_key() {
    let folder = Folder::new();
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let missing = path(folder.0.path().join("s3cr3t"));
    let parent = format!("{}/../ca.pem", path(folder.0.path().to_owned()));
    let huge = path(folder.file("huge", vec![b'-'; (1 << 20) + 1]));
    for (bundle, message) in [
        ("ca.crt", "is not the absolute path"),
        (&*parent, "has `..`"),
        (&*missing, "cannot be read: entity not found"),
        (&*path(folder.0.path().to_owned()), "is no ordinary file"),
        ("/dev/zero", "is no ordinary file"),
        (&*huge, "more than 1 MiB"),
        (&*path(folder.file("empty", "")), "no certificate in PEM"),
        (
            &*path(folder.file(
                "key",
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            )),
            "no certificate in PEM",
        ),
    ] {
        let document = with_ca_bundle(bundle);
        assert_fault(&document, &format!("backends[0].caBundlePath: {message}"));
        assert!(!faults(&document)[0].contains("s3cr3t"));
    }

    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = pem(certificate.cert.der());
    let bundle = path(folder.file("ca.crt", &pem));
    let vmcp: Vmcp<Body> = from_json(&with_ca_bundle(&bundle))
        .build(&resources())
        .unwrap();
    assert_eq!(&**vmcp.backends()[0].ca_bundle().unwrap(), pem.as_bytes());
}

#[cfg(feature = "hyper")]
#[tokio::test]
async fn the_client_of_a_backend_trusts_its_ca_bundle_and_no_other_server() {
    use http::Request;
    use tower::ServiceExt;

    let (server, certificate) = support::tls::start_tls(&["http/1.1"]).await;
    let (other, _) = support::tls::start_tls(&["http/1.1"]).await;
    let folder = Folder::new();
    let bundle = folder.file("ca.crt", pem(&certificate));
    let document = with_ca_bundle(bundle.to_str().unwrap());
    let vmcp: Vmcp<Body> = from_json(&document).build(&resources()).unwrap();
    let client = vmcp.backends()[0].https_client::<Body>().unwrap();
    let get = |server: &support::http_server::HttpServer| {
        let uri = format!("https://localhost:{}", server.address().port());
        Request::get(uri).body(Body::default()).unwrap()
    };
    let response = client.clone().oneshot(get(&server)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(client.oneshot(get(&other)).await.unwrap_err().is_connect());
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let encoded = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn passthrough_headers_of_the_caller_reach_the_backend_and_others_do_not() {
    use http::{HeaderMap, Request};
    use tower::{Layer, ServiceExt};

    let backend = support::token_stack::Backend::start().await;
    let request = backend.request(None);
    let document = with(|file| {
        file["passthroughHeaders"] = json!(["X-LiteLLM-API-Key"]);
        file["backends"] = json!([
            { "name": "b", "url": request.uri().to_string(), "transport": "streamable-http" },
        ]);
    });
    let vmcp: Vmcp<Body> = from_json(&document).build(&resources()).unwrap();
    let layer = vmcp.backends()[0].header_forward_layer();
    let mut incoming = HeaderMap::new();
    incoming.insert("x-litellm-api-key", "sk-1".parse().unwrap());
    incoming.insert("x-other", "1".parse().unwrap());
    let seen = tower::service_fn(async |request: Request<Body>| {
        Ok::<_, tower::BoxError>(http::Response::new(request.into_parts().0.headers))
    });
    let mut request = request;
    request.extensions_mut().insert(layer.captured(&incoming));
    let headers = layer
        .layer(seen)
        .oneshot(request)
        .await
        .unwrap()
        .into_body();
    assert_eq!(headers["x-litellm-api-key"], "sk-1");
    assert!(!headers.contains_key("x-other"));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("https://mcp.example.com/mcp")),
        Just(json!("oidc")),
        Just(json!("/dev/null")),
    ];
    let known = "incomingAuth outgoingAuth passthroughHeaders backends type oidc authz issuer audience caBundlePath name \
                 url transport metadata source default rateLimiting introspectionUrl scopes";
    let known: Vec<_> = known.split_whitespace().map(str::to_owned).collect();
    let name = prop_oneof![6 => prop::sample::select(known), 1 => any::<String>()];
    leaf.prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            3 => prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_file_is_read_or_refused_with_a_reason(mut document in any_value()) {
        if let Some(document) = document.as_object_mut() {
            document.entry("incomingAuth").or_insert(json!({ "type": "anonymous" }));
            document.entry("outgoingAuth").or_insert(json!({}));
        }
        if let Ok(file) = serde_json::from_value::<VmcpConfig>(document) {
            let built: Result<Vmcp<Body>, _> = file.build(&resources());
            if let Err(error) = built {
                assert!(!error.faults().is_empty());
            }
        }
    }
}

#[cfg(not(feature = "incoming"))]
#[test]
fn oidc_without_the_feature_incoming_is_a_fault_that_says_so() {
    let file: VmcpConfig = serde_saphyr::from_str(EXAMPLE).unwrap();
    let file = file.handled_by_application(["incomingAuth.authz"]);
    let error = error_of(file.clone());
    assert_eq!(error.faults().len(), 1, "{error}");
    assert_eq!(error.faults()[0].key(), "incomingAuth.type");
    assert!(error.to_string().contains("needs the feature `incoming`"));
    unread(file.handled_by_application(["incomingAuth"]));
}

#[cfg(feature = "incoming")]
mod incoming {
    use std::sync::Arc;

    use http::StatusCode;
    use support::identity_provider::{AUDIENCE, ED25519, IdentityProvider, some_day};
    use tower_identity::ManualClock;

    use super::*;

    fn oidc(change: impl FnOnce(&mut Value)) -> Value {
        with(|file| {
            let mut oidc = json!({ "issuer": "https://idp.example.com", "audience": "vmcp" });
            change(&mut oidc);
            file["incomingAuth"] = json!({ "type": "oidc", "oidc": oidc });
        })
    }

    #[test]
    fn each_fault_of_the_issuer_names_its_key() {
        for (document, expected) in [
            (
                oidc(|oidc| oidc["issuer"] = Value::Null),
                "issuer: is missing",
            ),
            (
                oidc(|oidc| oidc["audience"] = json!("")),
                "audience: is empty",
            ),
            (
                oidc(|oidc| oidc["issuer"] = json!("http://idp.example.com")),
                "issuer: or for a trusted network with `insecureAllowHttp`",
            ),
            (oidc(|oidc| oidc["jwksUrl"] = json!("jwks")), "jwksUrl: "),
            (oidc(|oidc| oidc["resource"] = json!("vmcp")), "resource: "),
            (oidc(|oidc| oidc["scopes"] = json!(["a b"])), "scopes[0]: "),
            (
                oidc(|oidc| oidc["introspectionUrl"] = json!("x")),
                "introspectionUrl: ",
            ),
            (
                oidc(|oidc| {
                    oidc["introspectionUrl"] = json!("https://idp.example.com/introspect");
                    oidc["clientSecretEnv"] = json!("GITHUB_SECRET");
                }),
                "clientId: is missing",
            ),
            (
                oidc(|oidc| {
                    oidc["introspectionUrl"] = json!("https://idp.example.com/introspect");
                    oidc["clientId"] = json!("vmcp");
                    oidc["clientSecretEnv"] = json!("NOT_SET");
                }),
                "clientSecretEnv: names an environment variable `NOT_SET` that is not set",
            ),
            (
                oidc(|oidc| oidc["caBundlePath"] = json!("ca.crt")),
                "caBundlePath: is not the absolute path",
            ),
            (
                oidc(|oidc| {
                    oidc["introspectionUrl"] = json!("https://oauth2.googleapis.com/tokeninfo");
                }),
                "introspectionUrl: does not speak RFC 7662",
            ),
            (
                oidc(|oidc| oidc["jwksURL"] = json!("x")),
                "jwksURL: did you mean `jwksUrl`?",
            ),
        ] {
            assert_fault(&document, &format!("incomingAuth.oidc.{expected}"));
        }
        // The operator writes the id of a client that there is not.
        assert!(unread(from_json(&oidc(|oidc| oidc["clientId"] = json!("")))).is_empty());
    }

    /// With keys like those in the tests of ToolHive's own loader:
    /// <https://github.com/stacklok/toolhive/blob/e25de16cf9720b13cf0b400c861a2f6840e2763c/pkg/vmcp/config/yaml_loader_test.go#L134>.
    #[tokio::test]
    async fn the_validator_knows_the_issuer_its_keys_and_its_introspection_endpoint() {
        let idp = IdentityProvider::start(ED25519).await;
        idp.introspects(
            "opaque",
            json!({ "active": true, "sub": "bob", "aud": AUDIENCE, "iss": idp.issuer() }),
        );
        let document = oidc(|oidc| {
            *oidc = json!({
                "issuer": idp.issuer(),
                "clientId": "test-client",
                "clientSecretEnv": "GITHUB_SECRET",
                "audience": AUDIENCE,
                "jwksUrl": idp.uri("/keys"),
                "introspectionUrl": idp.uri("/introspect"),
                "scopes": ["openid", "mcp"],
            });
        });
        let resources = Resources::<Body>::builder(http_client())
            .environment(|_| Some("s3cr3t".to_owned()))
            .clock(Arc::new(ManualClock::new(some_day())))
            .build()
            .unwrap();
        let vmcp = from_json(&document).build(&resources).unwrap();
        assert!(vmcp.unread().is_empty());
        let validator = vmcp.token_validator().unwrap();
        let token = idp.token(ED25519, "alice", some_day());
        assert_eq!(validator.validate(&token).await.unwrap().subject(), "alice");
        assert_eq!(validator.validate("opaque").await.unwrap().subject(), "bob");
        let asked = idp.requests();
        let asked = asked.last().unwrap();
        assert_eq!(
            asked.all("authorization"),
            ["Basic dGVzdC1jbGllbnQ6czNjcjN0"]
        );
        let error = validator.validate("x.y.z").await.unwrap_err();
        let response = error.to_response::<bytes::Bytes>();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains(r#"scope="openid mcp""#), "{challenge}");
        assert!(challenge.contains("resource_metadata="), "{challenge}");
    }

    #[cfg(feature = "hyper")]
    #[tokio::test]
    async fn an_issuer_with_a_private_authority_is_asked_over_the_ca_bundle() {
        use support::{http_server::server_body, tls::start_tls_with};

        let keys = json!({ "keys": [ED25519.public()] }).to_string();
        let (server, certificate) = start_tls_with(&["http/1.1"], move |_| {
            let keys = http_body_util::Full::new(bytes::Bytes::from(keys.clone()));
            async { http::Response::new(server_body(keys)) }
        })
        .await;
        let folder = Folder::new();
        let bundle = folder.file("ca.crt", pem(&certificate));
        let issuer = format!("https://localhost:{}", server.address().port());
        let at = |bundle: Option<&PathBuf>| {
            oidc(|oidc| {
                oidc["issuer"] = json!(issuer);
                oidc["audience"] = json!(AUDIENCE);
                oidc["jwksUrl"] = json!(format!("{issuer}/jwks"));
                oidc["caBundlePath"] = json!(bundle);
            })
        };
        let resources = Resources::<Body>::builder(
            tower_identity::client::hyper::https_client::<http_body_util::Full<bytes::Bytes>>()
                .unwrap(),
        )
        .clock(Arc::new(ManualClock::new(some_day())))
        .build()
        .unwrap();
        let now = some_day().duration_since(std::time::UNIX_EPOCH).unwrap();
        let claims = json!({
            "iss": issuer, "sub": "alice", "aud": AUDIENCE, "exp": now.as_secs() + 600,
        });
        let token = ED25519.sign(&ED25519.header(), &claims);
        let validate = async |document: Value| {
            let vmcp = from_json(&document).build(&resources).unwrap();
            vmcp.token_validator().unwrap().validate(&token).await
        };
        let identity = validate(at(Some(&bundle))).await.unwrap();
        assert_eq!(identity.subject(), "alice");
        let error = validate(at(None)).await.unwrap_err();
        assert_eq!(error.kind(), tower_identity::AuthErrorKind::Unavailable);
    }
}
