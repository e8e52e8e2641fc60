//! Find the cause of an error.
//!
//! The [kind](crate::AuthErrorKind) of an [`AuthError`](crate::AuthError) tells a program what to do:
//!
//! ```
//! use tower::BoxError;
//! use tower_identity::{AuthError, AuthErrorKind};
//!
//! fn what_to_do(error: &BoxError) -> &'static str {
//!     use AuthErrorKind::{Expired, MissingToken, Rejected, Unavailable};
//!
//!     match AuthError::find_in(&**error).map(AuthError::kind) {
//!         Some(Expired | Rejected | MissingToken) => "log in again",
//!         Some(Unavailable) => "try again later",
//!         Some(_) => "call the operator",
//!         None => "not an authentication error",
//!     }
//! }
//! # let error = AuthError::new(AuthErrorKind::Expired, "the token has expired");
//! # assert_eq!(what_to_do(&error.into()), "log in again");
//! ```
//!
//! The text of the error tells a person what failed, for which backend and provider, and what to do next. Its sources
//! have the causes, such as a certificate that has expired. Print the whole chain, as the [log](#show-the-log) does. It
//! shows no secret.
//!
//! # Where to look
//!
//! - `RUST_LOG=tower_identity=debug` shows a line for each request that was authenticated or refused, and the events that
//!   this page names. The line has the fields of the span `authenticate`: `backend`, `strategy`, `cache` and `outcome`,
//!   which is `ok` or the kind of the error. See [below](#show-the-log) for a program that prints them.
//! - `tower_identity_requests_total` counts requests by `backend`, `strategy` and `outcome`. See [all
//!   metrics](crate::telemetry).
//! - A 401 without an `AuthError` is the backend's answer: the credential was sent, and the backend refused it.
//!
//! # Show the log
//!
//! This crate writes its events with [`tracing`](https://docs.rs/tracing). A program prints them with
//! `tracing-subscriber`, with its feature `env-filter`:
//!
//! ```
//! use tracing_subscriber::EnvFilter;
//!
//! // `tracing_subscriber::fmt().init()` alone does not read `RUST_LOG`.
//! tracing_subscriber::fmt()
//!     .with_env_filter(EnvFilter::from_default_env())
//!     .init();
//! ```
//!
//! With `RUST_LOG=tower_identity=debug` it prints one line for a request that was sent, and one for a request that was
//! refused. Here they are without times, and wrapped:
//!
//! ```text
//! DEBUG authenticate{backend=https://mcp.example.com
//!     strategy="upstream_inject" outcome="ok"}:
//!     tower_identity::telemetry: a request was authenticated
//! DEBUG tower_identity::telemetry: a request was refused
//!     backend=https://mcp.example.com strategy="upstream_inject"
//!     kind="missing_identity" error=…
//! ```
//!
//! # It does not compile
//!
//! | the compiler says | what to do |
//! | --- | --- |
//! | `TokenExchangeBuilder: Clone` is not satisfied, or another builder | A builder was given to `AuthLayer`. Call `.build()?`. |
//! | `AuthService<…, Result<UpstreamInject, BuildError>>` is not a `Service` | The strategy's constructor can fail. Add `?`. |
//! | `AuthService<reqwest::Client, …>` is not a `Service` | Wrap the client in a [`ReqwestService`](crate::client::reqwest::ReqwestService). |
//! | type annotations are needed for `https_client` | Name the type of the requests' bodies: `https_client::<Full<Bytes>>()`. |
//! | `Body: Clone` is not satisfied, at `retry_rejected` | A body that is a stream cannot be sent again. Use [`retry_rejected_if_empty`](crate::AuthLayer::retry_rejected_if_empty) or [`retry_rejected_with`](crate::AuthLayer::retry_rejected_with). |
//! | the size of `dyn Error` cannot be known, at `find_in(&error)` | A `BoxError` is a box. Write `AuthError::find_in(&*error)`. |
//! | an async closure does not implement `Fn`, at `strategy_fn` | A closure that captures something returns an `async` block with a clone of it, see [`strategy_fn`](crate::strategy_fn). |
//! | `TokenValidator: Layer<…>` is not satisfied | Wrap the validator in a [`TokenValidatorLayer`](crate::TokenValidatorLayer). |
//! | `Handler` is not implemented for a function with an [`Identity`](crate::Identity) | Enable the feature `axum`. |
//! | an item of this crate is not found | Enable its feature. Each item's documentation names it. |
//!
//! # A `BuildError`
//!
//! The settings of a builder or constructor cannot work. The text of the [`BuildError`](crate::BuildError) names the
//! type and every wrong setting, and says what is wrong with each of them. It shows no configured value.
//!
//! # `MissingIdentity`
//!
//! The request carries no identity, and no fallback filled the gap.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The outgoing request is a new one, and the identity stayed on the incoming request. | [Carry it over](crate::guide::gateway#2-carry-over-the-identity-and-few-headers). |
//! | [`IdentityLayer`](crate::IdentityLayer) is beneath [`AuthLayer`](crate::AuthLayer). | Add it first: the first layer of a `ServiceBuilder` is the outermost. |
//! | A layer above dropped the extensions. For example, a layer that follows redirects does so for another origin. | Check where the redirect leads. |
//! | The MCP SDK's own `call_tool` was used. | Use `call_tool_as`, see [the guide for rmcp](crate::guide::rmcp). |
//! | The policy does not cover this request, or the session was opened without an identity. | Choose a [policy](crate::FallbackPolicy) that covers it. `tower_identity_fallbacks_total` and the event "using the session's" show when the fallback fills a gap. |
//! | A health check is not marked as one. | Add [`HealthCheck`](crate::HealthCheck) to its extensions. |
//! | Incoming: the caller sent no bearer token. | Nothing, the answer asks the caller for one. |
//! | Incoming: a browser's preflight request reached the validator. | [Put CORS outside](crate::guide::axum#4-put-cors-outside). |
//! | axum: no `TokenValidatorLayer` is around the route of the handler. The log warns of it. | [Add the layer after the route](crate::guide::axum#1-put-the-layer-around-the-routes). |
//!
//! # `MissingToken`
//!
//! The user is known, but has no token of the kind that the strategy needs.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The provider's name is misspelt. | Compare it with the names that the text lists. |
//! | The account is not linked: the [interaction](crate::Interaction::LinkAccount) names the provider. The user never logged in there, or the provider is [optional](crate::upstream::ProviderBuilder::optional). | Have the user log in there, for example with [`AccountLinking`](crate::AccountLinking). |
//! | The caller's token lacks the [session claim](crate::UpstreamTokens::session_claim), so there are no upstream tokens. | Have the issuer add the claim, or keep the tokens by user: do not set a session claim. |
//! | The tokens were put for another owner: another issuer (compare the `iss` of the caller's token character by character), another subject, or with a session where none is configured. | Make the owner with [`TokenOwner::of`](crate::upstream::TokenOwner::of) from the identity. |
//! | The strategy needs an ID token, and only an access token was kept. | Add it at login ([`with_id_token`](crate::UpstreamToken::with_id_token)). |
//!
//! # `Expired`
//!
//! The token is known to have expired, so it was not sent.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | A captured identity was used long after the login. | Put the fresh identity on each request, or let the session [follow](crate::IdentityLayer::follow_requests) the requests. |
//! | The upstream tokens are not refreshed. | Use [`UpstreamTokens`](crate::UpstreamTokens). |
//! | Clocks differ. | Run NTP. |
//! | Incoming: the caller's own token has expired. | Nothing, the answer says so. |
//!
//! # `Rejected`
//!
//! The credential was refused, and the caller must log in again. For ten seconds the issuer is not asked again about
//! the same credential. During this time the span's field `cache` is `refused`.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The user's token was revoked, or the refresh token was used elsewhere. | Have the user log in. The events "the refresh token was refused" and "the user has to log in again" name the provider. If it happens often, another process uses the refresh tokens, see [the guide for replicas](crate::guide::replicas). |
//! | The issuer wants a stronger login, a consent or a linked account. | [`AuthError::interaction`](crate::AuthError::interaction) says which, and the response's challenge has the parameters of the login. |
//! | The user's tokens are bound to a key that is not here (DPoP). | Give all replicas the same keys, also after a restart, see [the guide](crate::guide::replicas#6-share-the-key-that-tokens-are-bound-to). Then have the user link the account again. |
//! | All users are rejected at once. | The issuer refused in words that the [table](crate::TokenEndpoint#refusals) does not know, or the form is wrong. [`AuthError::oauth_error`](crate::AuthError::oauth_error) has the code, and [`refusal`](crate::oauth::TokenEndpointBuilder::refusal) sets its kind. |
//! | Incoming: "the token is not a JWT". | The token is cut off, or is opaque. Many issuers issue a JWT only if the client asks for an audience (`audience` or `resource`). Have it do so, or set an [`introspection`](crate::incoming::TokenValidatorBuilder::introspection) endpoint. |
//! | Incoming: the token is bound to a certificate (`cnf`). | The server must hand over the certificate of the connection as [`ClientCertificate`](crate::incoming::ClientCertificate). |
//! | Incoming: wrong audience, issuer, key or type. | The event "a caller was refused" names it, see [what is checked](crate::TokenValidator#what-is-checked). It does not show the token's claims, so decode the token yourself. `iss` and `aud` are compared character by character: a `/` at the end makes a difference. |
//! | Incoming: a proof is for another URL, says its `htu`. | Give the policy the URL that callers use, with what a proxy or a nested router takes away from the path ([`DpopPolicy::url`](crate::incoming::DpopPolicy::url)). |
//! | Incoming: a proof was not made just now, says its `iat`. | Run NTP at caller and gateway, or set a longer [`window`](crate::incoming::DpopPolicy::window). |
//! | Incoming: a proof was used before. | The caller sends one proof twice, or a proxy repeats requests. Each attempt needs a new proof. |
//! | Incoming: a token is bound to a key (`cnf`), and was presented without a proof. | The caller sends it as `Bearer`. It must use the scheme `DPoP`, and the validator needs a [policy](crate::incoming::TokenValidatorBuilder::dpop). |
//! | AWS STS considers the user's token invalid or expired. | See [the answers of AWS STS](crate::AwsSts#answers-of-aws-sts). |
//!
//! # `InsufficientScope`
//!
//! The credential is valid, but does not allow this request. The [challenge](crate::AuthError::challenge), if there is
//! one, names the scope to ask for.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The user's token lacks scopes that the strategy asks for. | Ask for fewer, or have the user consent. |
//! | AWS STS: the trust policy of the role does not include this user. | Correct the trust policy or the role mapping. |
//! | [`BindSubject`](crate::BindSubject): another user tried to use the session. | Nothing, the other user can open a session. |
//!
//! # `Unavailable`
//!
//! An issuer, a token service or a store cannot be reached. [`retry_after`](crate::AuthError::retry_after) says when to
//! try again, if that is known.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The issuer is down, slow, or its answer is malformed. | The error's source has the status. `tower_identity_refresh_duration_seconds` by `outcome` shows how long it has lasted. The crate [spaces its attempts](crate::CredentialCache#when-it-cannot-be-obtained). |
//! | The issuer limits how often it is asked. | Its `Retry-After` is kept. Check that one [cache](crate::CredentialCache) serves all requests, and that no other process asks for the same user. |
//! | The issuer's certificate is not trusted. | Give the client its certificate authority: [`https_client_with`](crate::client::hyper::https_client_with). |
//! | The event "the last client certificate is presented, because the newer one is bad". | It names the file and what is wrong with it. See [what is checked](crate::client::hyper::CertificateSource#when-the-files-are-bad). |
//! | Redis is down, stalls, or has too few replicas. | The text says which. The event "what a refresh brought is not stored yet" is harmless for two minutes. |
//! | A user's upstream token could not be refreshed. | The event "no fresh upstream token" names the provider and the kind. |
//! | A replica died in the middle of a refresh. | Wait, or set a [grace](crate::upstream::ProviderBuilder::grace) period if the provider has one. |
//! | Incoming: it is not known whether a DPoP proof was used before. | The event of this text says which clock was set back or is behind. Run NTP. See [when the clock was wrong](crate::incoming::DpopPolicy#when-the-clock-was-wrong). |
//! | The issuer's signing keys were never fetched. | The event "the issuer's keys could not be fetched" has the cause. |
//!
//! # `Configuration`
//!
//! The configuration cannot work, and trying again does not help. The text says what is wrong.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The token endpoint answered `invalid_dpop_proof`. | Run NTP: a proof is dated, and servers accept it for seconds or minutes. Compare the URL of the endpoint with the issuer's metadata, and the key's algorithm with `dpop_signing_alg_values_supported` there. |
//! | The issuer refuses the client (`invalid_client`, `incorrect_client_credentials`), the grant or the audience. | Check the client's registration at the issuer. See [what is the operator's](crate::TokenEndpoint#refusals). |
//! | The issuer refuses the client's certificate (`invalid_client` with `tls_client_auth`). | Check that the URL is the one in `mtls_endpoint_aliases` of the issuer's metadata, that the HTTP client has the certificate, and that no proxy in between ends TLS. |
//! | The token endpoint answers 404 or 405. | Check its URL. |
//! | Stored tokens cannot be opened. | Check the [sealing keys](crate::guide::replicas#3-rotate-the-sealing-key). |
//! | The call is outside of a Tokio runtime. | Call from within one. |
//! | The backend is no longer in the [live configuration](crate::config::LiveOutgoingAuth). | Add it again, or end its sessions. |
//!
//! # `WrongOrigin`
//!
//! The request goes to another origin than its credential is for. No credential was obtained.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | The backend redirects to another host. | Configure that host as a separate backend with a layer for its origin. If it is unknown, it may be an attack. |
//! | The incoming `Host` header was forwarded. | Do not forward it. |
//! | The URI is relative. | Make it absolute, or [declare](crate::AuthLayer::client_fixes_origin) that the client does. |
//! | The port or scheme differs from the layer's. | Correct the backend's URL or the [`Origin`](crate::Origin). |
//!
//! # `PayloadTooLarge`
//!
//! [`AwsSts`](crate::AwsSts) signs the whole body, and buffers at most 10 MiB of it. Send a smaller body.
//!
//! # No error, but unexpected behaviour
//!
//! | observation | cause |
//! | --- | --- |
//! | The backend answers 401 once, then 200. | [`retry_rejected`](crate::AuthLayer::retry_rejected) replaced a rejected credential. `tower_identity_forced_refreshes_total` counts this. |
//! | The backend always answers 401. | The token is for another audience, or the request [is not retried](crate::AuthLayer#retrying-rejected-credentials). |
//! | A session does not [follow](crate::IdentityLayer::follow_requests) its user's requests. | The identities have no issuer, or the requests carry another user's. |
//! | Users log in about once a day. | A captured identity wins somewhere. Look for a layer above this crate's layers that inserts identities. |
//! | `cache` is `miss` for each request. | The tokens' lifetime is zero, the configuration is built again for each request, or each request has another user's token. |
