//! I got an error.
//!
//! ```
//! use tower::BoxError;
//! use tower_identity::{AuthError, AuthErrorKind};
//!
//! fn what_to_do(error: &BoxError) -> &'static str {
//!     match AuthError::find_in(&**error).map(AuthError::kind) {
//!         Some(AuthErrorKind::Expired | AuthErrorKind::Rejected | AuthErrorKind::MissingToken) => "log in again",
//!         Some(AuthErrorKind::Unavailable) => "try again later",
//!         Some(_) => "call the operator",
//!         None => "nothing to do with authentication",
//!     }
//! }
//! # let error = AuthError::new(AuthErrorKind::Expired, "the token has expired");
//! # assert_eq!(what_to_do(&error.into()), "log in again");
//! ```
//!
//! The text of an [`AuthError`](crate::AuthError) says what was being done, for which backend and provider, and what to do
//! next. Its sources say why. Print the whole chain: neither shows a secret.
//!
//! # Where to look
//!
//! - `RUST_LOG=tower_identity=debug` shows the span `authenticate` of each request (`backend`, `strategy`, `cache`,
//!   `outcome`) and the events named below. `outcome` is the kind of the error.
//! - `tower_identity_requests_total` counts by `backend`, `strategy` and `outcome`. [All names](crate::telemetry).
//! - A 401 without an `AuthError` is an answer of the backend: the credential left, and was refused there.
//!
//! # `MissingIdentity`
//!
//! The request carries no identity, and no fallback filled the gap.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the outgoing request is a new one, and the identity stayed with the incoming | [carry it over](crate::guide::gateway#2-carry-the-identity-and-little-else) |
//! | a layer above dropped the extensions, as one that follows redirects to another origin does | look where the redirect led |
//! | the SDK's own `call_tool` was used | `call_tool_as`: see [`crate::guide::rmcp`] |
//! | the policy does not cover this request, or the session was opened without an identity | choose a [policy](crate::FallbackPolicy) that does; `tower_identity_fallbacks_total` and the event "using the session's" show when it fills a gap |
//! | a probe is not marked | [`HealthCheck`](crate::HealthCheck) |
//! | incoming: the caller sent no bearer token | nothing; they were asked for one |
//!
//! # `MissingToken`
//!
//! The user is known, but has no token of the kind that the strategy needs.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the provider's name is misspelt | compare it with those that the text lists |
//! | the user never logged in there, or it is [optional](crate::incoming::Provider::optional) | have them log in |
//! | the caller's token has no `tsid` claim, so there are no upstream tokens | let the issuer add it |
//! | the strategy wants an ID token, and only an access token was kept | put it in at log-in ([`with_id_token`](crate::UpstreamToken::with_id_token)) |
//!
//! # `Expired`
//!
//! The token is known to have expired, and was not sent.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | a captured identity was used long after log-in | put the fresh identity on each request, or [follow](crate::IdentityLayer::follow_requests) them |
//! | nobody refreshes the upstream tokens | [`UpstreamTokens`](crate::UpstreamTokens) |
//! | clocks are apart | NTP |
//! | incoming: the caller's own token has ended | nothing; they are told |
//!
//! # `Rejected`
//!
//! The credential was refused, and the caller must log in again. For ten seconds the issuer is not asked again for the same
//! credential: `cache` is `refused` then.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the user's token was revoked, or the refresh token was spent elsewhere | a log-in; the events "the refresh token was refused" and "the user has to log in again" name the provider. If it happens often, something else spends it: [`crate::guide::replicas`] |
//! | incoming: wrong audience, issuer, key or type | the event "a caller was refused" says which: see [what is checked](crate::incoming::validator#what-is-checked) |
//! | AWS STS takes the user's token for none, or for expired | [what comes of its answers](crate::strategy::aws_sts#what-comes-of-an-answer-of-aws-sts) |
//!
//! # `InsufficientScope`
//!
//! The credential is good, but not for this. The [challenge](crate::AuthError::challenge), where there is one, names the
//! scope to ask for.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the user's token does not have the scopes that the strategy asks for | ask for fewer, or have the user consent |
//! | AWS STS: the trust policy of the role is not for this user | the trust policy, or the role mapping |
//! | [`BindSubject`](crate::BindSubject): another user tried to use the session | nothing; they open their own |
//!
//! # `Unavailable`
//!
//! An issuer, a token service or a store cannot be asked. It passes; [`retry_after`](crate::AuthError::retry_after) says
//! when to try again, where that is known.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the issuer is down, slow, or answers something odd | the source has its status; `tower_identity_refresh_duration_seconds` by `outcome` shows for how long. Tries are [spaced](crate::credential::cache#when-it-cannot-be-obtained) |
//! | its certificate is not trusted | give the client its authority: [`https_client_with`](crate::client::hyper::https_client_with) |
//! | Redis is down, stalls, or has too few replicas | the text says which; the event "what a refresh brought is not stored yet" is harmless for two minutes |
//! | a user's upstream token could not be refreshed | the event "no fresh upstream token" names the provider and the kind |
//! | a replica died in the middle of a refresh | wait, or set a [grace](crate::incoming::Provider::grace) where the provider has one |
//! | the issuer's signing keys were never fetched | the event "the issuer's keys could not be fetched" |
//!
//! # `Configuration`
//!
//! What was configured cannot work, and trying again does not help. The text says what is wrong.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the issuer refuses the client (`invalid_client`), the grant or the audience | what is registered there |
//! | stored tokens cannot be opened | the [key ring](crate::guide::replicas#3-rotate-the-sealing-key) |
//! | outside of a Tokio runtime | call from within one |
//! | the backend is no longer in the [live configuration](crate::config::LiveOutgoingAuth) | put it back, or end its sessions |
//!
//! # `WrongOrigin`
//!
//! The request goes elsewhere than the credential may. No credential was obtained.
//!
//! | likely cause | what to do |
//! | --- | --- |
//! | the backend redirects to another host | that host is a backend of its own, with a layer of its own, or an attack |
//! | the incoming `Host` header was forwarded | do not forward it |
//! | the URI is relative | make it absolute, or [say](crate::AuthLayer::client_fixes_origin) that the client does |
//! | another port or scheme than the layer's | the backend's URL, or the [`Origin`](crate::Origin) |
//!
//! # `PayloadTooLarge`
//!
//! [`AwsSts`](crate::AwsSts) signs the whole body, and gathers at most 10 MiB of it. Send less.
//!
//! # No error, but not what you want
//!
//! | you see | it is |
//! | --- | --- |
//! | the backend answers 401 once, then 200 | [`Reauthenticate`](crate::Reauthenticate) at work: `tower_identity_forced_refreshes_total` |
//! | the backend answers 401 always | the token is for another audience, or has no retry: [what is retried](crate::outgoing::reauthenticate#what-is-retried) |
//! | users log in about once a day | a captured identity wins somewhere: look for a layer that inserts identities above this crate's |
//! | `cache` is `miss` on each request | the tokens' lifetime is zero, the configuration is built anew for each request, or each request has another user's token |
