//! Each service of a layer shows the service that it wraps, and gives it back.

use tower::Layer;
use tower_identity::{HeaderForwardLayer, IdentityLayer, Origin};

/// Checks the accessors of a service that wraps the number 1.
macro_rules! assert_inner_is_accessible {
    ($service:expr) => {
        let mut service = $service;
        assert_eq!(service.get_ref(), &1);
        *service.get_mut() = 2;
        assert_eq!(service.get_ref(), &2);
        assert_eq!(service.into_inner(), 2);
    };
}

#[test]
fn the_service_beneath_an_identity_layer_is_accessible() {
    assert_inner_is_accessible!(IdentityLayer::health_check().layer(1));
}

#[test]
fn the_service_beneath_forwarded_headers_is_accessible() {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let forward = HeaderForwardLayer::builder(origin).build().unwrap();
    assert_inner_is_accessible!(forward.layer(1));
}

#[cfg(feature = "incoming")]
#[test]
fn the_service_behind_a_token_validator_is_accessible() {
    use tower_identity::{KeySet, TokenValidator, TokenValidatorLayer};

    let keys = r#"{ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;
    let keys = KeySet::from_json(keys).unwrap();
    let validator = TokenValidator::builder_with_keys("https://issuer.example.com", keys)
        .audience("https://gateway.example.com")
        .build()
        .unwrap();
    assert_inner_is_accessible!(TokenValidatorLayer::new(validator).layer(1));
}

#[cfg(feature = "incoming")]
#[test]
fn the_service_of_a_bound_session_is_accessible() {
    use tower_identity::{BindSubject, Identity};

    let session = Identity::builder("user-1").build().unwrap();
    assert_inner_is_accessible!(BindSubject::to(session).layer(1));
}

#[cfg(feature = "rmcp")]
#[test]
fn the_service_beneath_an_mcp_client_is_accessible() {
    assert_inner_is_accessible!(tower_identity::client::rmcp::TowerHttpClient::new(1));
}

#[cfg(feature = "reqwest")]
#[test]
fn the_reqwest_client_of_a_service_is_accessible() {
    use tower_identity::client::reqwest::ReqwestService;

    let service = ReqwestService::<String>::new(reqwest::Client::builder()).unwrap();
    let _: &reqwest::Client = service.get_ref();
    let _: reqwest::Client = service.into_inner();
}
