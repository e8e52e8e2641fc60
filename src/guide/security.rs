//! Threat model: the parties, their possible attacks, the promises of this crate, and the test for each promise.
//!
//! The crate protects the users' tokens and the application's own secrets and keys. It also protects the link between a
//! request and its user: a request is sent with the credential of the user it is made for. The bugs of other systems
//! are on a separate page, [faults](super::faults).
//!
//! # The parties
//!
//! | party | can | is trusted |
//! | --- | --- | --- |
//! | the caller | send any request with any headers | with nothing before the token is validated, then as the subject that the token names |
//! | another user | do the same, on the same gateway at the same time | to act as themselves |
//! | the gateway's operator | write the configuration and the code around this crate | fully, because the operator decides where users' tokens go |
//! | other code in the process | read and change everything in memory | fully: an [`Identity`](crate::Identity) in the extensions is believed, and a layer beneath [`AuthLayer`](crate::AuthLayer) sees the credential |
//! | the backend | receive the credential that is for it, and answer anything | with that credential, but not with the destination of later requests |
//! | the identity provider | identify users, and issue, refuse and revoke tokens | for its own issuer, over TLS, but not to answer, or to answer correctly |
//! | AWS STS | receive the user's token, and give credentials for a role | in the same way |
//! | the Redis store | keep, lose and delay what it stores | neither to read nor to change it |
//! | readers of logs, errors and metrics | see the backend, provider, strategy, role and outcome | with no token, claim or session id |
//! | the network | read, change and drop everything without TLS | with nothing |
//!
//! # The attacks
//!
//! | party | tries | defence |
//! | --- | --- | --- |
//! | the caller | a token that is forged, expired, for another audience or from another issuer | the [validation](crate::TokenValidator#what-is-checked) of the token |
//! | | a second `Authorization` header, or another credential header | it is refused or removed when the request arrives, and the strategy replaces its header when the request leaves |
//! | | a bound token of another user, or a proof that was used before or made for another server | the [checks](crate::incoming::DpopPolicy#what-is-checked) of the proof, where tokens are bound |
//! | | a `Host` header or a URI that leads elsewhere | the origin is checked before a credential is obtained |
//! | | a claim that contains an expression, a role or a session name | claims are only compared, checked or hashed as values |
//! | | thousands of bad tokens | keys are fetched at most once in 10 s, and a refused user is not asked about again for 10 s |
//! | | giving up in the middle of a refresh | the refresh goes on |
//! | another user | the same name, e-mail or subject, at the same or another issuer | the cache key contains the token itself, and a fallback follows subject and issuer |
//! | | the id of another user's session | [`BindSubject`](crate::BindSubject), where it is used. Upstream tokens are found by issuer and subject, and a [session](crate::UpstreamTokens::session_claim) only among those of its user |
//! | the backend | a redirect to another host | no redirect is followed beneath the layers, and one that is followed above them is checked again |
//! | | 401 for each request | one retry, and one refresh for all requests |
//! | | an endless answer | [`TowerHttpClient`](crate::client::rmcp::TowerHttpClient) bounds it, and the other clients stream it to you without a bound |
//! | the identity provider | an answer that is endless, slow, deeply nested, not JSON or a redirect | limits of size and time. Redirects are not followed, and the error shows nothing of the answer |
//! | | a missing or odd lifetime | at most a day, 5 minutes if it is unknown, and no caching if it makes no sense |
//! | | an outage | valid tokens and known keys stay in use, and the provider is asked less and less often |
//! | | metadata or an assertion in another issuer's name | the issuer is compared, and so are an assertion's audience and resource |
//! | AWS STS | the same, or repeating the user's token in an error | the same limits. Neither its text nor the SDK's log is shown |
//! | the Redis store | reading, changing or moving tokens | they are sealed, and bound to their user, session, provider and version |
//! | | an outage or a stall | `Unavailable` within a bounded time, and no refresh token is used without a claim |
//! | readers of logs | a secret in `Debug` output, an error, a span or a URL | secrets are in none of them |
//! | the network | reading along | plain `http` is refused except for loopback, unless the caller asks for it by name. The tokens sent to Redis are sealed, even where `rediss://` is not used |
//!
//! # Promises and their tests
//!
//! Each row names a file in `tests/` and a test in it. A doc test of this page checks that they exist. The tests use
//! the public API. A test whose name begins with `f` and a number belongs to a [fault](super::faults). One that begins
//! with `i` and a number is a property test of an invariant.
//!
//! <style>td:last-child code { white-space: normal; overflow-wrap: anywhere; }</style>
//!
//! ## The invariants
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | 1. The request's identity always wins | `invariants` | `i1_the_requests_identity_always_wins` |
//! | … during a session of several hours, on a real MCP session | `token_refresh_end_to_end` | `f01_after_each_refresh_the_backend_sees_the_fresh_token_on_the_very_next_call` |
//! | … and identities are not merged | `identity_layer` | `identities_are_not_merged` |
//! | 2. The fallback only fills a gap, where the policy allows it | `invariants` | `i2_the_fallback_only_fills_a_gap_and_only_where_the_policy_allows` |
//! | … and its use can be seen | `metrics` | `what_happens_is_counted_under_the_documented_names` |
//! | 3. A credential has an address | `invariants` | `i3_a_credential_goes_to_its_origin_and_nowhere_else` |
//! | … and a request for another origin is refused before a credential is obtained | `auth_layer` | `f04_a_request_for_another_origin_fails_before_a_credential_is_obtained` |
//! | 4. All or nothing | `invariants` | `i4_a_request_leaves_with_its_credential_or_not_at_all` |
//! | 5. One user's credential never reaches another | `invariants` | `i5_many_users_on_one_stack_each_leave_with_their_own_token` |
//! | … in whatever order things happen | `token_interleavings` | `no_user_gets_anothers_token_and_no_key_is_asked_for_twice_at_once` |
//! | 6. Secrets do not leak | `invariants` | `i6_no_token_is_shown_whatever_it_is` |
//! | 7. A cancelled caller does not disturb others | `token_strategies` | `f12_a_caller_that_gives_up_takes_nobody_along` |
//! | … and the credential it asked for is kept | `credential_cache` | `f12_what_nobody_waits_for_any_more_is_kept` |
//! | 8. No identity means no identity | `invariants` | `i8_there_is_no_identity_without_a_subject` |
//!
//! ## Where a credential goes
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A redirect to another host does not take an identity along | `redirects` | `f04_a_redirect_to_a_stranger_does_not_take_the_fallback_identity_along` |
//! | … nor an injected header | `redirects` | `f05_a_redirect_to_a_stranger_does_not_take_an_injected_header_along` |
//! | … nor a forwarded one | `redirects` | `f05_a_redirect_to_a_stranger_does_not_take_a_forwarded_header_along` |
//! | The hyper client follows no redirects beneath the layers | `hyper_client` | `f05_a_redirect_is_not_followed_beneath_the_layers` |
//! | … and neither does reqwest | `reqwest_client` | `f05_a_redirect_is_not_followed_beneath_the_layers` |
//! | A `Host` header that disagrees with the URI is refused | `auth_layer` | `f37_a_host_header_that_disagrees_is_refused` |
//! | Plain `http` is only for loopback, unless the caller asks for it by name | `origin` | `plain_http_is_for_loopback_unless_it_is_asked_for_by_name` |
//! | Exactly one credential header is sent | `auth_layer` | `f38_exactly_one_credential_header_goes_out` |
//! | No credential goes to a proxy of the environment | `reqwest_client` | `a_credential_does_not_go_to_the_proxy_of_the_environment` |
//! | A health check has no user's credential | `auth_layer` | `f32_a_health_check_passes_an_identity_strategy_without_a_credential` |
//! | Redirects of a token endpoint are not followed | `token_endpoint` | `f35_a_redirect_is_not_followed` |
//!
//! ## Whose credential it is
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | Users whose identities differ only in the token share nothing | `credential_cache` | `f06_users_who_differ_only_in_their_token_share_nothing` |
//! | Strategies that differ in one setting share no token | `token_strategies` | `f07_strategies_that_differ_in_one_setting_never_share_a_token` |
//! | A fallback never follows another user | `identity_layer` | `a_fallback_never_follows_another_user` |
//! | Another user cannot use a bound session | `bind_subject` | `f06_in_the_outgoing_stack_no_credential_of_another_user_is_sent` |
//! | Users of one MCP session are not mixed up | `rmcp_client` | `two_users_of_one_session_are_never_mixed_up` |
//! | A claim is a value, and never a part of an expression | `aws_roles` | `f27_a_claim_is_a_value_and_never_part_of_an_expression` |
//!
//! ## How long a credential is used
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A user whose token has expired gets nothing, even if a credential is cached | `token_strategies` | `f09_an_expired_subject_gets_nothing_although_a_token_is_at_hand` |
//! | Setting the clock back makes no expired credential valid | `credential_cache` | `setting_the_clock_back_does_not_make_an_expired_credential_fresh` |
//! | … and neither does suspending the machine | `credential_cache` | `a_suspended_machine_does_not_make_an_expired_credential_fresh` |
//! | An odd lifetime never means "forever" | `token_endpoint` | `f16_an_odd_expires_in_never_means_for_ever` |
//! | A refresh token is used once, by one replica | `upstream_tokens` | `f18_replicas_that_refresh_at_once_spend_a_refresh_token_once` |
//! | … and not again after that replica died | `upstream_tokens` | `f17_a_refresh_token_that_may_have_been_spent_by_a_replica_that_died_is_not_replayed` |
//! | A user's upstream tokens go to no other user, whatever session a token names | `validated_upstream_tokens` | `f65_a_session_is_of_one_user_of_one_issuer` |
//! | … even if the store returns them | `own_store` | `f65_tokens_that_a_store_finds_by_the_session_alone_are_given_to_no_other_user` |
//! | A logout during a refresh stays | `upstream_tokens` | `a_log_out_during_a_refresh_stays` |
//!
//! ## What the gateway itself authenticates with, and signs
//!
//! The parties are the platform that writes a workload's token into a file, the supplier of a secret or a signature, and a
//! backend that trusts the gateway's statements.
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A file that is missing, empty, too large, half-written or unreadable is an event for the operator, and the last token is used while it is good | `secret_sources` | `a_file_that_is_at_fault_is_told_to_the_operator_and_the_old_token_serves_to_its_end` |
//! | A token that was not replaced after its end is not sent | `secret_sources` | `a_file_that_was_not_replaced_after_its_token_expired_is_no_longer_sent` |
//! | A supplier that fails, hangs or panics ends the request with an error within a time limit | `secret_sources` | `a_function_is_called_for_each_request_and_may_fail_as_it_likes` |
//! | … and so does a signer, also one that returns no signature | `client_assertions` | `a_signer_that_fails_hangs_panics_or_returns_garbage_is_told_and_nothing_is_sent` |
//! | A refusal does not repeat an assertion | `secret_sources` | `a_refusal_that_repeats_a_supplied_assertion_is_not_repeated` |
//! | A statement says who the request's identity is, also where it is cached | `signed_identity` | `a_statement_is_cached_for_its_user_and_says_what_the_request_s_identity_says` |
//! | … and what another party signed is none | `signed_identity` | `what_another_library_signed_is_not_taken_for_a_statement_unless_it_has_the_key` |
//! | … and each statement can be verified while keys rotate | `signed_identity` | `keys_rotate_without_a_statement_that_nobody_can_verify` |
//! | … also by a configuration that is replaced | `config_workload` | `a_key_is_rotated_by_replacing_the_configuration` |
//! | A token that is bound to a key (DPoP) is of no use with another key, and neither are its code and its refresh token | `dpop_token_endpoint` | `a_code_and_its_refresh_tokens_are_of_use_with_the_key_that_they_are_bound_to_alone` |
//! | … and a bearer token in its place is refused, unless that is allowed | `dpop_token_endpoint` | `a_token_of_a_provider_that_does_not_know_dpop_is_refused_unless_it_is_allowed` |
//! | … and tokens whose key is gone are neither sent nor removed | `dpop_upstream` | `tokens_whose_key_is_gone_ask_for_a_login_and_are_neither_sent_nor_removed` |
//! | … and neither are those whose refresh token alone is bound | `dpop_upstream` | `a_refresh_token_that_alone_is_bound_is_not_spent_by_a_replica_with_another_key` |
//! | … and each user of each issuer has another key | `dpop_keys` | `each_user_of_each_issuer_has_another_key_and_each_secret_other_keys` |
//! | … and a hostile nonce is neither sent, nor kept, nor logged | `dpop_token_endpoint` | `a_hostile_nonce_is_neither_sent_nor_logged_nor_kept` |
//! | … and each request has a fresh proof of its method, its place and its token | `dpop_requests` | `each_request_has_a_fresh_proof_of_its_method_its_place_and_its_token` |
//! | … which backends of others verify | `dpop_backends` | `a_provider_tells_about_each_user_with_their_bound_token_and_the_proof_of_their_key` |
//! | … and without a proof nothing is sent | `dpop_requests` | `without_a_proof_nothing_is_sent` |
//! | … and a bound token does not leave as a bearer token | `dpop_requests` | `an_upstream_token_that_is_bound_to_a_key_is_sent_with_it_or_not_at_all` |
//! | … and users with one subject token do not share one | `dpop_requests` | `two_users_with_one_subject_token_do_not_share_a_token_that_is_bound_to_a_key` |
//! | … and the proof of a caller does not leave beside another token | `dpop_requests` | `a_callers_proof_never_leaves_beside_a_token_of_the_strategy` |
//! | … and no key is in `Debug` output | `dpop_keys` | `no_key_material_is_in_debug` |
//! | A claim as a parameter changes no other parameter | `exchange_parameters` | `a_hostile_claim_changes_no_other_parameter` |
//! | … and users whose claims differ share no token | `exchange_parameters` | `tokens_are_kept_apart_by_the_values_of_claims_and_by_constants` |
//! | A claim as a header cannot add another header | `claim_injection` | `a_value_that_cannot_be_a_header_is_escaped_or_refused_and_never_shown` |
//! | A token in any header is sensitive, and leaves to its origin alone | `placement` | `a_token_in_any_header_is_sensitive_and_leaves_to_its_origin_alone` |
//! | Two credentials leave together or not at all | `placement` | `both_credentials_arrive_or_nothing_is_sent` |
//! | … and not in one header | `config_workload` | `two_credentials_in_one_header_are_a_fault_in_any_spelling` |
//! | A session's refresh token goes to no other session | `cross_app_access` | `f62_the_refresh_token_of_a_session_is_found_by_the_session_that_the_user_came_with` |
//!
//! ## Tokens that are bound to a certificate
//!
//! The party is a thief of an access token who does not have the key of the client's certificate (RFC 8705).
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A bound token is refused without its certificate, in every configuration | `certificate_bound_tokens` | `f71_a_bound_token_without_its_certificate_is_refused_in_every_configuration` |
//! | … also where the token was remembered over the right connection | `certificate_bound_tokens` | `a_token_that_was_remembered_over_one_connection_is_refused_over_another` |
//! | … and where its owner asks at the same time | `certificate_bound_tokens` | `a_thief_who_asks_at_the_same_time_gets_nothing_of_the_owners_answer_and_spoils_nothing` |
//! | A thumbprint that is none fits no certificate | `certificate_bound_tokens` | `a_thumbprint_that_cannot_be_one_fits_no_certificate` |
//! | Another certificate of the same subject and authority does not help | `mutual_tls` | `a_bound_token_is_accepted_over_a_connection_with_its_certificate_and_no_other` |
//! | Two endpoints whose clients present two certificates share no token | `mutual_tls` | `two_endpoints_share_no_token_unless_they_present_the_same_certificate` |
//! | A certificate that was replaced is presented without a restart | `client_certificates` | `a_replaced_file_takes_effect_without_a_restart_on_new_connections` |
//! | … and a bad one is not | `client_certificates` | `while_a_replaced_file_is_bad_the_old_certificate_is_presented_and_the_operator_is_told_once` |
//! | A certificate authenticates the client at the endpoint that asks for it alone | `mutual_tls` | `an_alias_is_used_only_by_clients_with_a_certificate_and_checked_as_any_endpoint` |
//!
//! ## Tokens that are bound to a key
//!
//! The party is a thief of an access token who does not have the caller's key (DPoP, RFC 9449), and may have read its
//! proofs on the way. The settings are those of [`DpopPolicy`](crate::incoming::DpopPolicy#security).
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A bound token is refused without a proof, in every configuration | `dpop_bound_tokens` | `f71_a_token_that_is_bound_to_a_key_is_refused_without_its_proof_in_every_configuration` |
//! | … and with the proof of another key | `dpop_bound_tokens` | `a_stolen_token_is_refused_with_the_proof_of_another_key` |
//! | … also where the token is remembered | `dpop_bound_tokens` | `the_proof_is_checked_for_each_request_also_where_the_token_is_remembered` |
//! | A proof is accepted once | `dpop_bound_tokens` | `a_proof_is_accepted_once_within_the_window_and_not_at_all_after_it` |
//! | … however the clock is set | `dpop_bound_tokens` | `a_proof_of_a_time_whose_proofs_were_forgotten_is_refused_for_the_clocks_sake_and_not_for_the_callers` |
//! | … by all replicas that share a store | `dpop_bound_tokens` | `a_proof_is_accepted_once_by_all_replicas_that_share_a_store` |
//! | … also where the clock of one is wrong | `dpop_peers` | `a_replica_whose_clock_is_wrong_makes_no_replay_a_first_use` |
//! | … and none is accepted where it is not known whether it was used | `dpop_bound_tokens` | `a_store_that_cannot_tell_accepts_nothing_and_is_not_the_callers_fault` |
//! | Many proofs push no earlier one out of the memory | `dpop_bound_tokens` | `a_memory_that_is_full_refuses_new_proofs_with_503_and_forgets_no_old_one` |
//! | A proof for another server is refused, whatever the `Host` header says | `dpop_bound_tokens` | `the_url_is_a_setting_and_never_the_host_of_the_request` |
//! | A proof that is wrong in any part is refused | `dpop_bound_tokens` | `a_proof_with_a_wrong_claim_is_refused` |
//! | … and none causes a panic | `dpop_bound_tokens` | `no_change_of_a_member_panics_or_is_the_operators_fault` |
//! | Nothing of a proof is logged | `dpop_bound_tokens` | `nothing_of_a_proof_is_logged_or_shown` |
//! | A proof does not reach a backend | `dpop_bound_tokens` | `the_layer_passes_a_bound_token_on_without_its_proof` |
//!
//! ## Linking accounts
//!
//! [`AccountLinking`](crate::AccountLinking) sends a browser to a provider and stores what comes back. The parties are the
//! user's browser, other sites that it has open, other hosts of the same domain, another user, and each provider.
//!
//! | attack, and the defence | file | test |
//! | --- | --- | --- |
//! | CSRF on the callback: the redirect of an attacker's link opens only in the browser that began it | `linking_security` | `the_redirect_of_an_attackers_link_does_nothing_in_a_victims_browser` |
//! | CSRF on the start, and on unlinking: no image, frame or prefetch starts a link, and only a form of the own origin ends one | `linking_security` | `no_other_site_starts_a_link_unseen_or_ends_one` |
//! | Login and link fixation: a browser that comes back as another user links nothing | `linking_security` | `a_browser_that_comes_back_as_somebody_else_links_nothing` |
//! | … and an address that an attacker sends links the account of the user who opens it to that user | `linking_security` | `the_address_of_a_link_names_no_user_so_that_who_opens_it_links_their_own_account` |
//! | … and the redirect of an attacker's login, or of a link, logs nobody in in another browser | `linking_security` | `the_redirect_of_an_attackers_login_logs_nobody_in_in_a_victims_browser` |
//! | Mix-up between providers: each has its own redirect URI, and `iss` (RFC 9207) is compared | `linking_security` | `a_response_of_one_provider_is_not_taken_for_one_of_another` |
//! | A replayed `state` is refused, also by many requests at once | `linking_security` | `a_state_is_accepted_once_however_many_ask_at_once` |
//! | … by several replicas | `account_linking` | `what_one_replica_began_another_one_finishes_once` |
//! | … and after ten minutes | `linking_security` | `a_state_is_good_for_ten_minutes` |
//! | A stolen `state` does not open without the browser's cookie | `linking_security` | `a_stolen_state_is_of_no_use_without_the_browser_and_a_refusal_uses_it_up` |
//! | A changed `state` does not open at all | `linking_security` | `a_state_that_was_changed_in_any_place_is_refused` |
//! | Open redirect: `return_to` is a path of this host | `linking_security` | `no_redirect_leaves_this_host_except_to_the_provider` |
//! | Code injection: a code of another login lacks the code verifier of this one | `linking_security` | `a_code_of_another_authorization_request_is_not_accepted` |
//! | A stolen code, where tokens are bound to a key (`dpop_jkt`), is of no use with another key | `dpop_upstream` | `a_code_is_of_no_use_to_a_replica_with_another_key` |
//! | PKCE downgrade: S256 is always sent, and a provider that says it lacks it is not asked | `linking_security` | `each_request_has_an_s256_challenge_and_nothing_turns_that_off` |
//! | A provider that answers with another user's ID token, or another kind of token | `linking_security` | `an_id_token_that_is_not_of_this_login_links_nothing` |
//! | Cookies of other hosts of the domain: `__Host-`, `Secure`, `HttpOnly`, `SameSite=Lax`, no `Domain` | `linking_security` | `the_cookie_cannot_be_set_by_another_host_nor_read_by_a_script` |
//! | Cached pages, referrers, frames: `no-store`, `no-referrer`, `default-src 'none'`, `frame-ancestors 'none'` on each response, and no text of a request reaches a page | `linking_security` | `nothing_of_a_request_reaches_a_page` |
//! | Log lines have no code, state, verifier, token or user | `linking_security` | `no_secret_is_logged_at_trace` |
//! | Any query gets a page, and stores nothing | `linking_security` | `odd_queries_get_a_page_and_nothing_else` |
//! | Any answer of a token endpoint becomes a page that shows nothing of it | `linking_security` | `odd_answers_of_a_token_endpoint_link_nothing_and_are_not_shown` |
//! | A deviation from the standard is accepted from the provider that is known for it alone | `provider_settings` | `a_deviation_of_one_provider_is_refused_from_every_other` |
//!
//! ## Which callers are admitted
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | The token decides who the caller is, whatever a layer above inserted | `token_validator` | `the_token_decides_who_it_is_whatever_a_layer_above_said` |
//! | Confused algorithms are refused | `token_validator` | `confused_algorithms_and_headers_are_refused` |
//! | Nothing that a token refers to is fetched | `token_validator` | `nothing_that_a_token_names_is_fetched_or_believed` |
//! | No arbitrary text is accepted as a token | `token_validator` | `no_text_is_accepted_as_a_token` |
//! | Bad tokens cannot cause endless fetches of keys | `issuer_keys` | `f28_bad_tokens_fetch_keys_a_few_times_a_minute` |
//! | A file with policies or limits that this crate does not enforce is refused, unless the application says that it enforces them | `vmcp_config` | `what_protects_is_a_fault_until_the_application_says_that_it_does_it` |
//! | A handler that needs an identity refuses where a layer was forgotten | `axum` | `a_handler_that_needs_an_identity_refuses_where_no_layer_is` |
//!
//! ## What is shown
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | No value shows a secret in its `Debug` output | `secrets` | `f33_no_value_shows_a_secret_in_its_debug` |
//! | No request shows one in an error or in a log at TRACE | `secrets` | `f33_no_request_shows_a_secret_in_an_error_or_in_a_log_at_trace` |
//! | No client beneath the layers logs one | `secrets` | `f33_no_client_beneath_logs_a_secret_at_trace` |
//! | No token is in a span | `spans` | `each_authentication_has_one_span_and_no_token_is_in_it` |
//! | The AWS SDK logs none | `aws_sts` | `f33_no_secret_is_in_a_log_at_trace_that_of_the_aws_sdk_included` |
//! | A configuration shows none and serializes none | `config` | `no_output_shows_a_secret` |
//! | Redis contains no readable token, user or session id | `redis_store` | `who_reads_redis_learns_neither_tokens_nor_users_nor_sessions` |
//! | An answer to a caller reveals nothing internal | `error` | `an_answer_says_nothing_of_what_is_inside` |
//!
//! ## What a hostile peer can do
//!
//! | promise | file | test |
//! | --- | --- | --- |
//! | A gibibyte from an issuer is not read | `token_endpoint` | `f35_a_body_of_a_gibibyte_is_not_read` |
//! | … nor one from an MCP server | `rmcp_client` | `a_gibibyte_of_json_is_not_read` |
//! | An answer that arrives byte by byte is abandoned | `token_endpoint` | `f35_an_answer_that_drips_or_never_comes_is_given_up` |
//! | An endless body is not signed | `aws_sts` | `an_endless_body_is_given_up_at_10_mib` |
//! | No key set causes a panic | `issuer_keys` | `no_key_set_panics_or_is_the_callers_fault` |
//! | Stored tokens that were changed or moved are an error | `redis_store` | `a_value_that_was_moved_or_tampered_with_is_an_error_and_no_log_in` |
//! | Any answer of a token endpoint becomes a token that can be sent, or an error that shows nothing of the answer | `hostile_input/main` | `a_token_endpoint_issues_a_token_that_can_be_sent_or_an_error_that_shows_nothing_of_its_answer` |
//! | Any answer of AWS STS becomes credentials that can be sent, or such an error | `hostile_input/main` | `aws_sts_gives_credentials_that_can_be_sent_or_an_error_that_shows_nothing_of_its_answer` |
//! | Keys come only from the issuer's own documents, whatever these say | `hostile_input/main` | `keys_come_from_the_issuers_own_documents_alone` |
//! | No credential follows a redirect to another host, wherever it points | `hostile_input/main` | `a_credential_reaches_its_origin_alone_wherever_a_request_or_a_redirect_points` |
//! | No expression over claims aborts the process | `hostile_input/main` | `an_expression_over_claims_is_refused_or_evaluated_and_aborts_nothing` |
//!
//! # What is not defended against
//!
//! - **Code in the process, or access to its memory.** Secrets are wiped when they are dropped, but are in memory until
//!   then. The copies that HTTP clients, TLS and the kernel make are not wiped.
//! - **The operator.** The configuration decides where users' tokens go.
//! - **A network that is trusted.** The headers of [`ClaimInjection`](crate::ClaimInjection) are not signed. A party that
//!   reaches the backend by another way can set them.
//! - **The backend.** It can do with its credential whatever the credential allows. Give each backend a separate token
//!   ([`TokenExchange`](crate::TokenExchange)) instead of the user's token.
//! - **The party that ends TLS.** [`ClientCertificate`](crate::incoming::ClientCertificate) is believed, as an identity in
//!   the extensions is. Behind a proxy, whoever can set the proxy's header presents any certificate.
//! - **DNS**, beyond the protection of TLS. The origin is a name, not an address.
//! - **Layers beneath [`AuthLayer`](crate::AuthLayer).** They see the credential, and can send it elsewhere.
//! - **Extensions.** An [`Identity`](crate::Identity) in a request's extensions is believed. Only your code can put it
//!   there, and it must not build one from unvalidated input.
//! - **Revocation before expiry.** An obtained credential is used until it expires or the backend refuses it. The same
//!   holds for a caller's JWT. The issuer is asked about an opaque token for each request, unless [tokens are
//!   remembered](crate::incoming::TokenValidatorBuilder::cache_tokens).
//! - **An older state of Redis.** A party that can write to Redis can restore or delete stored tokens. This costs
//!   logins, but gives no user another user's tokens.
//! - **Too many requests.** Caches and answers are bounded, request rates are not. Put a rate limit above the layers.
//! - **Your own strategies.** The [rules for an implementation](crate::Strategy#rules-for-implementations) are
//!   documented, but not checked.
//!
//! # Reports and fixes
//!
//! Report a vulnerability by a private security advisory at the repository's host, as the README describes. In scope is
//! anything that lets a party of this page break a promise without being trusted to. Out of scope are the limits above,
//! the examples, benches and tests, and faults of a dependency that this crate does not make worse. Fixes go into the
//! newest release. Before 1.0, older releases get no fixes.

/// ```
/// # // The tests are in the repository, and not in the package.
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
