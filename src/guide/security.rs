//! Threat model: who is who, what they could try, what is promised, and the test that holds it.
//!
//! At stake are the users' tokens, the application's own secrets and keys, and that a request is made as the user whom it
//! is for. What others got wrong is on a page of its own, [faults](super::faults).
//!
//! # Who is who
//!
//! | who | may | is trusted |
//! | --- | --- | --- |
//! | the caller | send any request, with any header | with nothing, until their token was validated; then to be the subject that it names |
//! | another user | the same, on the same gateway at the same time | to be themselves |
//! | the gateway's operator | write the configuration and the code around this crate | wholly: they decide where users' tokens go |
//! | other code in the process | read and change all that is in memory | wholly: whoever puts an [`Identity`](crate::Identity) into the extensions is believed, and a layer beneath [`AuthLayer`](crate::AuthLayer) has the credential |
//! | the backend | get the credential that is for it, and answer anything | with that credential; not with where requests go next |
//! | the identity provider | say who somebody is; issue, refuse and revoke tokens | for its own issuer, over TLS; not to answer, nor to answer sensibly |
//! | AWS STS | get the user's token, and give credentials for a role | likewise |
//! | the Redis store | keep, lose and delay what it is given | not to read it, and not to change it |
//! | who reads logs, errors and metrics | see which backend, provider, strategy and role, and what came of it | with no token, no claim and no session's id |
//! | the network | read, change and drop what is not TLS | with nothing |
//!
//! # What they could try
//!
//! | who | tries | what stops it |
//! | --- | --- | --- |
//! | the caller | a token that is forged, expired, for another audience or from another issuer | [all of what is checked](crate::incoming::validator#what-is-checked) |
//! | | a second `Authorization`, or a credential header of their own | refused, or removed, on the way in; on the way out a strategy replaces what stands in its header |
//! | | a `Host` or a URI that leads elsewhere | the origin is checked before a credential is obtained |
//! | | a claim that is an expression, a role or a session's name | claims are values, which are compared, checked or hashed |
//! | | bad tokens by the thousand | keys are fetched at most once in 10 s, and a refused user is not asked for again for 10 s |
//! | | to give up in the middle of a refresh | it goes on without them |
//! | another user | the same name, e-mail or subject, at another issuer or at the same | what is kept is kept by the token itself, and a fallback follows subject and issuer |
//! | | the id of another's session | [`BindSubject`](crate::BindSubject), where it is used; upstream tokens are found by the signed `tsid` claim |
//! | the backend | a redirect to a stranger | nothing follows beneath the layers, and what follows above them is checked anew |
//! | | 401, again and again | one retry, and one refresh for all |
//! | | an answer without an end | bounded in [`TowerHttpClient`](crate::client::rmcp::TowerHttpClient); the other clients stream it to you, unbounded |
//! | the identity provider | an answer that is endless, slow, nested, no JSON or a redirect | bounds of size and time, redirects are not followed, an error without a word of it |
//! | | a lifetime that is odd, or none | at most a day, 5 minutes where it is not known, and not kept where it makes no sense |
//! | | to be down | good tokens and known keys stay in use, and it is asked less and less often |
//! | | metadata or an assertion in another's name | the issuer is compared, an assertion's audience and resource, too |
//! | AWS STS | the same, or to repeat the user's token in an error | the same bounds; neither its text nor what the SDK would log is shown |
//! | the Redis store | to read tokens, to change or to move them | they are sealed, and bound to their session, provider and version |
//! | | to be down, or to stall | `Unavailable` in bounded time, and no refresh token is spent without a claim |
//! | who reads logs | a secret in `Debug`, in an error, in a span or a URL | there is none |
//! | the network | to read along | plain `http` is refused but for loopback, unless it is asked for by name; what goes to Redis is sealed, over `rediss://` or not |
//!
//! # Promises and their tests
//!
//! Each row names a file in `tests/` and a test in it, and a doc test of this page sees to it that they are there. The
//! tests go through the public API. A name with `f` and a number is that of a [fault](super::faults); one with `i` and a
//! number is a property test of an invariant.
//!
//! ## The invariants
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | 1. The request's identity always wins | `invariants` | `i1_the_requests_identity_always_wins` |
//! | … over a session of hours, on a real MCP session | `token_refresh_end_to_end` | `f01_after_each_refresh_the_backend_sees_the_fresh_token_on_the_very_next_call` |
//! | … and identities are not merged | `identity_layer` | `identities_are_not_merged` |
//! | 2. The fallback only fills a gap, where the policy allows it | `invariants` | `i2_the_fallback_only_fills_a_gap_and_only_where_the_policy_allows` |
//! | … and its use can be seen | `metrics` | `what_happens_is_counted_under_the_documented_names` |
//! | 3. A credential has an address | `invariants` | `i3_a_credential_goes_to_its_origin_and_nowhere_else` |
//! | … and another one is refused before a credential is obtained | `auth_layer` | `f04_a_request_for_another_origin_fails_before_a_credential_is_obtained` |
//! | 4. All or nothing | `invariants` | `i4_a_request_leaves_with_its_credential_or_not_at_all` |
//! | 5. One user's credential never reaches another | `invariants` | `i5_many_users_on_one_stack_each_leave_with_their_own_token` |
//! | … whatever the order in which things happen | `token_interleavings` | `no_user_gets_anothers_token_and_no_key_is_asked_for_twice_at_once` |
//! | 6. Secrets do not leak | `invariants` | `i6_no_token_is_shown_whatever_it_is` |
//! | 7. A cancelled caller harms nobody | `token_strategies` | `f12_a_caller_that_gives_up_takes_nobody_along` |
//! | … and what it asked for is kept | `credential_cache` | `f12_what_nobody_waits_for_any_more_is_kept` |
//! | 8. No identity means no identity | `invariants` | `i8_there_is_no_identity_without_a_subject` |
//!
//! ## Where a credential goes
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A redirect to a stranger takes no identity along | `redirects` | `f04_a_redirect_to_a_stranger_does_not_take_the_fallback_identity_along` |
//! | … nor an injected header | `redirects` | `f05_a_redirect_to_a_stranger_does_not_take_an_injected_header_along` |
//! | … nor a forwarded one | `redirects` | `f05_a_redirect_to_a_stranger_does_not_take_a_forwarded_header_along` |
//! | The clients follow none beneath the layers | `hyper_client` | `f05_a_redirect_is_not_followed_beneath_the_layers` |
//! | … reqwest neither | `reqwest_client` | `f05_a_redirect_is_not_followed_beneath_the_layers` |
//! | A `Host` header that disagrees is refused | `auth_layer` | `f37_a_host_header_that_disagrees_is_refused` |
//! | Plain `http` is for loopback, unless it is asked for by name | `origin` | `plain_http_is_for_loopback_unless_it_is_asked_for_by_name` |
//! | Exactly one credential header goes out | `auth_layer` | `f38_exactly_one_credential_header_goes_out` |
//! | No credential goes to a proxy of the environment | `reqwest_client` | `a_credential_does_not_go_to_the_proxy_of_the_environment` |
//! | A probe has no user's credential | `auth_layer` | `f32_a_health_check_passes_an_identity_strategy_without_a_credential` |
//! | The token endpoint's redirects are not followed | `token_endpoint` | `f35_a_redirect_is_not_followed` |
//!
//! ## Whose it is
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | Users who differ only in their token share nothing | `credential_cache` | `f06_users_who_differ_only_in_their_token_share_nothing` |
//! | Strategies that differ in one setting share no token | `token_strategies` | `f07_strategies_that_differ_in_one_setting_never_share_a_token` |
//! | A fallback never follows another user | `identity_layer` | `a_fallback_never_follows_another_user` |
//! | Another user cannot use a bound session | `bind_subject` | `f06_in_the_outgoing_stack_no_credential_of_another_user_is_sent` |
//! | Users of one MCP session are not mixed up | `rmcp_client` | `two_users_of_one_session_are_never_mixed_up` |
//! | A claim is a value, and never part of an expression | `aws_roles` | `f27_a_claim_is_a_value_and_never_part_of_an_expression` |
//!
//! ## For how long
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A subject that has expired gets nothing, even if it is at hand | `token_strategies` | `f09_an_expired_subject_gets_nothing_although_a_token_is_at_hand` |
//! | A clock that is set back makes nothing fresh | `credential_cache` | `setting_the_clock_back_does_not_make_an_expired_credential_fresh` |
//! | … nor does a machine that slept | `credential_cache` | `a_suspended_machine_does_not_make_an_expired_credential_fresh` |
//! | An odd lifetime never means for ever | `token_endpoint` | `f16_an_odd_expires_in_never_means_for_ever` |
//! | A refresh token is spent once, by one replica | `upstream_tokens` | `f18_replicas_that_refresh_at_once_spend_a_refresh_token_once` |
//! | … and not replayed after a replica died | `upstream_tokens` | `f17_a_refresh_token_that_may_have_been_spent_by_a_replica_that_died_is_not_replayed` |
//! | A log-out during a refresh stays | `upstream_tokens` | `a_log_out_during_a_refresh_stays` |
//!
//! ## Who gets in
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | The token decides who it is, whatever a layer above said | `token_validator` | `the_token_decides_who_it_is_whatever_a_layer_above_said` |
//! | Confused algorithms are refused | `token_validator` | `confused_algorithms_and_headers_are_refused` |
//! | Nothing that a token names is fetched | `token_validator` | `nothing_that_a_token_names_is_fetched_or_believed` |
//! | No text is accepted as a token | `token_validator` | `no_text_is_accepted_as_a_token` |
//! | Bad tokens cannot make it fetch keys without end | `issuer_keys` | `f28_bad_tokens_fetch_keys_at_most_once_in_10_seconds` |
//!
//! ## What is shown
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | No value shows a secret in its `Debug` | `secrets` | `f33_no_value_shows_a_secret_in_its_debug` |
//! | No request shows one in an error or in a log at trace | `secrets` | `f33_no_request_shows_a_secret_in_an_error_or_in_a_log_at_trace` |
//! | No client beneath logs one | `secrets` | `f33_no_client_beneath_logs_a_secret_at_trace` |
//! | No token is in a span | `spans` | `each_authentication_has_one_span_and_no_token_is_in_it` |
//! | The AWS SDK logs none | `aws_sts` | `f33_no_secret_is_in_a_log_at_trace_that_of_the_aws_sdk_included` |
//! | A configuration shows none, and serializes none | `config` | `no_output_shows_a_secret` |
//! | Who reads Redis learns no token and no session's id | `redis_store` | `who_reads_redis_learns_neither_tokens_nor_the_sessions_id` |
//! | An answer to a caller says nothing of what is inside | `error` | `an_answer_says_nothing_of_what_is_inside` |
//!
//! ## What a hostile peer can do
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A gibibyte from an issuer is not read | `token_endpoint` | `f35_a_body_of_a_gibibyte_is_not_read` |
//! | … nor one from an MCP server | `rmcp_client` | `a_gibibyte_of_json_is_not_read` |
//! | An answer that drips is given up | `token_endpoint` | `f35_an_answer_that_drips_or_never_comes_is_given_up` |
//! | An endless body is not signed | `aws_sts` | `an_endless_body_is_given_up_at_10_mib` |
//! | No key set panics | `issuer_keys` | `no_key_set_panics_or_is_the_callers_fault` |
//! | Stored tokens that were tampered with, or moved, are an error | `redis_store` | `a_value_that_was_moved_or_tampered_with_is_an_error_and_no_log_in` |
//! | Whatever a token endpoint answers, it is a token that can be sent, or an error that shows nothing of it | `hostile_input/main` | `a_token_endpoint_issues_a_token_that_can_be_sent_or_an_error_that_shows_nothing_of_its_answer` |
//! | Whatever AWS STS answers, likewise | `hostile_input/main` | `aws_sts_gives_credentials_that_can_be_sent_or_an_error_that_shows_nothing_of_its_answer` |
//! | Whatever an issuer's documents say, keys come from them alone | `hostile_input/main` | `keys_come_from_the_issuers_own_documents_alone` |
//! | Wherever a redirect points, no credential follows it to a stranger | `hostile_input/main` | `a_credential_reaches_its_origin_alone_wherever_a_request_or_a_redirect_points` |
//! | No expression over claims aborts the process | `hostile_input/main` | `an_expression_over_claims_is_refused_or_evaluated_and_aborts_nothing` |
//!
//! # What is not defended against
//!
//! - **Whoever runs code in the process, or reads its memory.** Secrets are wiped when they are dropped, and until then they
//!   are there. What HTTP clients, TLS and the kernel copy is not wiped.
//! - **The operator.** Who writes the configuration decides where users' tokens go.
//! - **The backend.** It gets the credential, and can do with it what the credential allows. Give each backend a token of
//!   its own ([`TokenExchange`](crate::TokenExchange)), not the user's.
//! - **DNS**, beyond what TLS does: the origin is a name, and not an address.
//! - **Layers beneath [`AuthLayer`](crate::AuthLayer).** They see the credential, and may send it elsewhere.
//! - **Extensions.** Whoever can put an [`Identity`](crate::Identity) into a request's extensions is believed. Only code of
//!   yours can; it must not make one of what a caller says.
//! - **Revocation before the end.** A credential that was obtained is used until it ends or the backend refuses it. So is a
//!   JWT of the caller; one that is opaque is asked about on each request, unless
//!   [tokens are remembered](crate::incoming::TokenValidatorBuilder::cache_tokens).
//! - **An older state of Redis.** Who can write there can bring back what was stored before, or delete it. That costs log-ins;
//!   it gives nobody another's tokens.
//! - **Too many requests.** Caches and answers are bounded, rates are not: put a limit above.
//! - **Strategies of your own.** What they have to keep to is [listed](crate::Strategy#what-an-implementation-keeps-to), and
//!   not checked.

/// ```
/// # // They are in the repository, and not in the package.
/// # if !std::path::Path::new("tests").exists() { return Ok(()) }
/// let mut rows = 0;
/// for page in ["security", "faults"] {
///     let page = std::fs::read_to_string(format!("src/guide/{page}.rs"))?;
///     for row in page.lines().filter(|line| line.starts_with("//! |") && line.ends_with("` |")) {
///         let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
///         let [.., file, test] = cells[..] else { panic!("{row}") };
///         let tests = std::fs::read_to_string(format!("tests/{}.rs", file.trim_matches('`')))?;
///         let test = test.trim_matches('`');
///         assert!(tests.contains(&format!("fn {test}(")), "{file} has no {test}");
///         rows += 1;
///     }
/// }
/// assert!(rows > 100, "{rows}");
/// # Ok::<(), std::io::Error>(())
/// ```
#[cfg(doctest)]
struct EachTestExists;
