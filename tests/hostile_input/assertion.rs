//! An assertion that an identity provider issues for another authorization server (ID-JAG): its header, its claims and
//! those of the user's ID token, a line for each.

use std::time::UNIX_EPOCH;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tower_identity::{
    AccessToken, AuthErrorKind, CrossAppAccess, Identity, Secret, Strategy, TokenEndpoint,
    UpstreamToken,
};

use crate::harness::{
    self, Peer, assert_is_well_formed, assert_shows_nothing_of, line, shown, wait,
};

const AUDIENCE: &str = "https://auth.chat.example/";
const RESOURCE: &str = "https://mcp.chat.example/";

pub(crate) fn check(input: &[u8]) {
    let mut rest = input;
    let [header, claims, id_token] = [line(&mut rest), line(&mut rest), line(&mut rest)];
    let assertion = jwt(header, claims);
    let id_token = jwt(br#"{"alg":"RS256"}"#, id_token);

    let issued = json!({
        "access_token": assertion,
        "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        "token_type": "N_A",
    });
    let identity_provider = Peer::new(move |_| Response::new(Bytes::from(issued.to_string())));
    let granted = json!({ "access_token": "of-the-backend", "token_type": "Bearer" });
    let authorization_server = Peer::new(move |_| Response::new(Bytes::from(granted.to_string())));
    let strategy = CrossAppAccess::builder(
        "okta",
        endpoint("https://idp.example.com/token", identity_provider.clone()),
        endpoint(
            "https://auth.chat.example/token",
            authorization_server.clone(),
        ),
    )
    .audience(AUDIENCE)
    .resource(RESOURCE)
    .clock(harness::clock())
    .build()
    .unwrap();
    let upstream = UpstreamToken::new(AccessToken::new("of-the-user").unwrap())
        .with_id_token(Secret::new(&*id_token).unwrap());
    let identity = Identity::builder("user-1").upstream("okta", upstream);
    let mut request = Request::new(Full::<Bytes>::default());
    request.extensions_mut().insert(identity.build().unwrap());

    let outcome = wait(async { strategy.authenticate(&mut request).complete(request).await });

    assert!(identity_provider.asked().len() <= 1);
    for (_, form) in authorization_server.asked() {
        assert!(
            form.windows(assertion.len())
                .any(|part| part == assertion.as_bytes())
        );
        let (header, claims) = (object(header), object(claims));
        let typ = header["typ"].as_str().unwrap().to_ascii_lowercase();
        assert!(["oauth-id-jag+jwt", "application/oauth-id-jag+jwt"].contains(&&*typ));
        let now = harness::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        assert!(claims["exp"].as_f64().unwrap() > now, "it has expired");
        let id_token = object(
            &URL_SAFE_NO_PAD
                .decode(id_token.split('.').nth(1).unwrap())
                .unwrap(),
        );
        assert!(
            claims["iss"].is_string() && claims["iss"] == id_token["iss"],
            "another's"
        );
        assert!(
            [json!(AUDIENCE), json!([AUDIENCE])].contains(&claims["aud"]),
            "for another"
        );
        // It is optional, as the draft has it.
        let resources = match claims.get("resource") {
            None | Some(Value::Null) => &[json!(RESOURCE)],
            Some(Value::Array(resources)) => &resources[..],
            Some(resource) => std::slice::from_ref(resource),
        };
        assert!(!resources.is_empty() && resources.iter().all(|resource| resource == RESOURCE));
    }
    match outcome {
        Ok(request) => {
            assert_eq!(authorization_server.asked().len(), 1);
            assert_eq!(request.headers()[AUTHORIZATION], "Bearer of-the-backend");
        }
        Err(error) => {
            assert_is_well_formed(&error);
            assert!(
                authorization_server.asked().is_empty(),
                "it was passed on: {error}"
            );
            let kinds = [AuthErrorKind::Unavailable, AuthErrorKind::Expired];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            let public = ["https://idp.example.com", "oauth-id-jag+jwt"];
            assert_shows_nothing_of(input, &shown(&error), &public);
            assert_shows_nothing_of(assertion.as_bytes(), &shown(&error), &public);
        }
    }
}

fn endpoint<F>(url: &str, peer: Peer<F>) -> TokenEndpoint
where
    F: Fn(&Request<Full<Bytes>>) -> Response<Bytes> + Clone + Send + Sync + 'static,
{
    TokenEndpoint::builder(url, peer)
        .clock(harness::clock())
        .build()
        .unwrap()
}

fn jwt(header: &[u8], claims: &[u8]) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.c2lnbmF0dXJl")
}

fn object(json: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(json).unwrap()
}
