//! Faults of other systems, and the test that detects each of them here.
//!
//! These are bugs of systems that do the same job, found in their issue trackers. Each has a number, and its tests
//! begin with that number (for example `f01_`). A row that begins with an ellipsis is a variant of the fault above it,
//! and its number has a suffix.
//!
//! Each row has a patch with the same name in `tests/faults`, such as `tests/faults/F07-secret.patch`, which puts the
//! fault into the crate as an honest mistake would. `tests/faults/run` applies the patches one by one to a copy of the
//! crate, and checks that the named test fails by one of its assertions. `tests/faults/run F07 F18` does this for the
//! named faults only. See [how the crate is tested](super::testing#the-faults-of-other-systems).
//!
//! <style>td:last-child code { white-space: normal; overflow-wrap: anywhere; }</style>
//!
//! | # | fault | file | test |
//! | --- | --- | --- | --- |
//! | F01 | the identity captured at the start of a session replaces the request's fresh identity | `token_refresh_end_to_end` | `f01_after_each_refresh_the_backend_sees_the_fresh_token_on_the_very_next_call` |
//! | F02 | an empty identity is accepted as an identity | `identity` | `f02_an_empty_identity_cannot_be_built` |
//! | F02-absence | a request without an identity is treated as one of a user | `identity_layer` | `f02_who_is_not_known_is_none_and_no_strategy_takes_them_for_a_user` |
//! | F03 | an incomplete identity is invented when a session is restored | `identity` | `f03_a_half_empty_identity_cannot_be_built` |
//! | F03-fallback | … and becomes the fallback | `identity_layer` | `f03_a_session_without_identity_fills_no_gap` |
//! | F04 | a redirect strips the extensions, and the layers beneath authenticate for another host | `redirects` | `f04_a_redirect_to_a_stranger_does_not_take_the_fallback_identity_along` |
//! | F05 | a credential in a custom header survives a redirect | `redirects` | `f05_a_redirect_to_a_stranger_does_not_take_an_injected_header_along` |
//! | F05-forward | … in a forwarded header | `redirects` | `f05_a_redirect_to_a_stranger_does_not_take_a_forwarded_header_along` |
//! | F05-client | … because the client follows redirects beneath the layers | `reqwest_client` | `f05_a_redirect_is_not_followed_beneath_the_layers` |
//! | F06 | a cache keyed by name or e-mail hands one user's token to another | `token_strategies` | `f06_users_that_differ_only_in_their_token_never_share_one` |
//! | F07 | the cache key lacks a part of the configuration: scope, resource or tenant | `token_strategies` | `f07_strategies_that_differ_in_one_setting_never_share_a_token` |
//! | F07-secret | … the client's secret | `token_strategies` | `f07_neither_do_the_other_strategies_if_they_differ_in_one_setting` |
//! | F07-region | … the AWS region | `aws_sts` | `f07_strategies_that_differ_share_no_credentials` |
//! | F08 | all anonymous requests share one cache key | `token_strategies` | `f08_without_a_users_token_there_is_no_look_up_and_no_exchange` |
//! | F09 | the cache is read before the user's token is checked, and the token has expired | `token_strategies` | `f09_an_expired_subject_gets_nothing_although_a_token_is_at_hand` |
//! | F09-revoked | … or was revoked | `token_validator` | `f09_a_revoked_token_gets_nothing_although_what_was_obtained_for_it_is_at_hand` |
//! | F10 | each request causes a token exchange | `token_strategies` | `f10_there_is_one_exchange_per_user_backend_and_lifetime` |
//! | F11 | a cold or expired key causes a thundering herd | `credential_cache` | `f11_ten_thousand_callers_on_a_cold_key_cause_one_fetch` |
//! | F12 | the first caller gives up, which cancels the refresh that others wait for | `credential_cache` | `f12_the_first_callers_cancellation_harms_nobody` |
//! | F13 | callers that waited for a failed refresh retry one by one | `token_strategies` | `f13_an_outage_is_one_error_for_all_and_no_queue` |
//! | F13-back-off | … and immediately | `credential_cache` | `f13_the_back_off_doubles_up_to_a_minute_and_a_success_resets_it` |
//! | F14 | an early refresh that fails replaces a token that is still valid | `credential_cache` | `f14_a_failed_early_refresh_keeps_the_credential_to_its_end` |
//! | F15 | an error that is wrongly taken as permanent stops all later refreshes | `token_strategies` | `f15_any_error_is_recovered_from` |
//! | F16 | an odd `expires_in` is misread: a string, or another value that is no number | `token_strategies` | `f16_a_missing_or_odd_lifetime_is_a_short_one_and_a_huge_one_is_a_day` |
//! | F16-absent | … no value | `token_strategies` | `f16_a_missing_or_odd_lifetime_is_a_short_one_and_a_huge_one_is_a_day` |
//! | F16-negative | … zero or less | `token_strategies` | `f16_a_missing_or_odd_lifetime_is_a_short_one_and_a_huge_one_is_a_day` |
//! | F16-huge | … centuries | `credential_cache` | `f16_a_huge_lifetime_is_cut_to_a_day` |
//! | F17 | a refresh token is rotated but the new one is not stored, so the old one is used again | `upstream_tokens` | `f17_a_rotated_refresh_token_is_stored_and_the_old_one_is_not_presented_again` |
//! | F17-dropped | … and the dead one stays in the store | `upstream_tokens` | `f17_a_refused_refresh_drops_the_tokens_and_asks_for_a_log_in` |
//! | F18 | two replicas refresh at the same time, and the loser deletes the winner's tokens | `upstream_tokens` | `f18_the_loser_of_a_race_reads_the_winners_tokens_and_removes_nothing` |
//! | F19 | a store that is down is mistaken for one whose lock is held | `upstream_tokens` | `f19_a_store_that_is_down_is_no_busy_holder` |
//! | F20 | `invalid_grant` causes hundreds of immediate retries | `token_strategies` | `f20_a_rejected_subject_is_tried_once_in_ten_seconds` |
//! | F21 | each of many simultaneous 401s forces a separate refresh | `retry_rejected` | `f21_calls_rejected_with_the_same_token_cause_one_refresh` |
//! | F22 | a request is retried after each 401, with the same token | `retry_rejected` | `f22_a_second_401_goes_to_the_caller` |
//! | F23 | AWS credentials expire before the request arrives | `aws_sts` | `f23_credentials_do_not_sign_within_5_s_of_their_end` |
//! | F23-window | … although fresh ones are available | `aws_sts` | `f23_credentials_about_to_expire_are_not_used_where_fresh_ones_can_be_had` |
//! | F24 | STS is called for each request, until it throttles | `aws_sts` | `f24_sts_is_asked_once_per_user_role_session_name_and_lifetime` |
//! | F25 | the signature covers headers that a proxy rewrites | `aws_sts` | `f25_f26_only_host_content_type_and_amz_headers_are_signed` |
//! | F26 | `traceparent` changes on a retry, which breaks the signature | `aws_sts` | `f25_f26_only_host_content_type_and_amz_headers_are_signed` |
//! | F27 | a user's name becomes part of a policy expression | `aws_roles` | `f27_a_claim_is_a_value_and_never_part_of_an_expression` |
//! | F28 | an unknown `kid` is not looked up again after the keys were rotated | `issuer_keys` | `f28_a_rotated_key_is_looked_up_on_the_first_token_that_names_it` |
//! | F28-debounce | … or is looked up again for each bad token | `issuer_keys` | `f28_bad_tokens_fetch_keys_a_few_times_a_minute` |
//! | F29 | an issuer's refusal of a user is answered with 500 | `token_endpoint` | `f29_the_callers_fault_is_told_from_the_issuers` |
//! | F29-issuer | … an issuer's outage | `token_strategies` | `f29_whose_fault_it_is_shows_in_the_status_and_nothing_else_does` |
//! | F30 | a lock is held while an event stream is open, which blocks all calls | `rmcp_client` | `f30_a_hundred_calls_proceed_while_streams_are_open` |
//! | F31 | a request is sent on another service than the one that was polled ready | `auth_layer` | `f31_the_service_that_was_polled_ready_is_the_one_that_is_called` |
//! | F32 | a health check is refused because it has no user | `auth_layer` | `f32_a_health_check_passes_an_identity_strategy_without_a_credential` |
//! | F32-teardown | … at the end of its session | `rmcp_client` | `f32_a_probe_of_a_session_needs_no_user_from_its_handshake_to_its_teardown` |
//! | F33 | `Debug` shows a secret | `secrets` | `f33_no_value_shows_a_secret_in_its_debug` |
//! | F33-trace | … a log at TRACE shows it | `aws_sts` | `f33_no_secret_is_in_a_log_at_trace_that_of_the_aws_sdk_included` |
//! | F33-url | … a URL shows it | `aws_sts` | `f33_sts_is_asked_by_a_post_with_nothing_in_its_url_and_without_a_signature` |
//! | F34 | after a lost session, the saved `initialize` is sent again with its old identity | `rmcp_client` | `f34_a_replayed_initialize_does_not_bring_an_older_identity_back` |
//! | F35 | a token endpoint sends a gibibyte | `token_endpoint` | `f35_a_body_of_a_gibibyte_is_not_read` |
//! | F35-drip | … one byte now and then | `token_endpoint` | `f35_an_answer_that_drips_or_never_comes_is_given_up` |
//! | F35-no-json | … a body that is no JSON, or nested without end | `token_endpoint` | `f35_what_is_no_json_object_is_no_token` |
//! | F35-shown | … and an error shows that body, including a token in it | `token_endpoint` | `f35_what_is_no_json_object_is_no_token` |
//! | F35-content-type | … a token with a content type that is not JSON | `token_endpoint` | `f35_a_token_in_what_says_it_is_no_json_is_not_taken` |
//! | F35-redirect | … a redirect | `token_endpoint` | `f35_a_redirect_is_not_followed` |
//! | F36 | an ID token is stale, although the access token beside it is fresh | `upstream_tokens` | `f36_tokens_are_refreshed_before_the_id_token_that_is_used_expires` |
//! | F37 | the `Host` header names another host than the URI that was checked | `auth_layer` | `f37_a_host_header_that_disagrees_is_refused` |
//! | F37-authority | … `:authority` names it | `hyper_client` | `f37_over_http_2_authority_and_host_are_the_origin_or_nothing_is_sent` |
//! | F38 | a second credential header stays on the request, and the server reads that one | `auth_layer` | `f38_exactly_one_credential_header_goes_out` |
//! | F38-header | … an API key | `auth_layer` | `f38_exactly_one_credential_header_goes_out` |
//! | F38-issued | … an issued token | `token_strategies` | `f38_the_backend_gets_the_token_that_was_minted_for_it_and_nothing_else` |
//! | F39 | `Connection: authorization` has the credential deleted on the way | `hop_by_hop` | `f39_whatever_connection_names_each_credential_arrives_once` |
//! | F39-h2c | … and an upgrade to HTTP/2 lets a caller send requests past the layers | `hop_by_hop` | `f39_an_upgrade_to_http_2_is_not_passed_on` |
//! | F40 | a refused refresh token or subject token, in other words than `invalid_grant`, is answered with 500 | `issuer_answers` | `f40_each_documented_refusal_is_told_to_whom_it_concerns` |
//! | F40-limit | … a rate limit asks users to log in | `issuer_answers` | `f40_a_limit_in_any_words_passes` |
//! | F40-refresh | … and a refused refresh token brings an ordinary login, whatever the provider asked for | `issuer_answers` | `f40_the_refresh_grant_asks_for_a_login_where_one_is_needed_and_nowhere_else` |
//! | F41 | the part of a refusal that says how the user must log in is lost | `issuer_answers` | `f41_the_challenge_tells_the_caller_which_login_is_needed` |
//! | F42 | `requested_token_type` is not sent, which some issuers require | `token_strategies` | `f42_an_access_token_is_asked_for_by_name_unless_it_is_set_otherwise` |
//! | F43 | a token with an `expires_in` of 0 or `null` is accepted when it is refreshed, and refused when it is sent | `issuer_answers` | `f43_a_token_without_a_lifetime_is_sent_now_and_not_kept_whoever_asked_for_it` |
//! | F44 | each rejection forces a request to the issuer | `retry_rejected` | `f44_calls_rejected_in_a_row_force_one_refresh_in_10_seconds` |
//! | F44-dropped | … and the good credential is dropped before another is there | `retry_rejected` | `f44_one_caller_locks_nobody_out_of_the_clients_own_token` |
//! | F45 | a panic in a recorder, clock or `Clone` leaves a key unusable | `credential_cache_panics` | `f45_a_panic_of_anything_foreign_leaves_the_key_usable_and_nobody_waiting` |
//! | F45-lock | … and a slow one blocks the other callers of the key | `credential_cache` | `f45_a_clock_and_a_credentials_clone_and_drop_hold_up_nobody_of_the_same_key` |
//! | F46 | callers wait without end for a fetch whose runtime is no longer driven | `credential_cache_panics` | `f46_a_follower_takes_over_from_a_leader_whose_runtime_is_no_longer_driven` |
//! | F47 | an AWS session that was rejected with 400 or 403 is never replaced | `aws_sts` | `f47_a_session_is_replaced_after_each_documented_answer_that_speaks_of_it` |
//! | F47-doubt | … or is replaced at each 403 that says nothing | `aws_sts` | `f47_an_answer_that_says_nothing_replaces_a_session_at_most_once_a_minute` |
//! | F48 | one error code of AWS STS is one party's fault, although it means three | `aws_sts` | `f48_each_documented_answer_of_sts_is_told_to_those_who_can_do_something_about_it` |
//! | F49 | a user without a role is asked to log in again, which cannot help | `aws_roles` | `f49_a_user_without_a_role_is_forbidden_and_not_asked_to_log_in` |
//! | F50 | an identity without claims satisfies a matcher with a negation | `aws_roles` | `f50_an_identity_without_claims_satisfies_no_matcher_and_gets_no_fallback_role` |
//! | F51 | a matcher's pattern is compiled for each element of a list | `aws_roles` | `f51_a_pattern_is_compiled_once_however_many_groups_there_are` |
//! | F51-product | … and its work is the product of two claims, without a bound | `aws_roles` | `f51_the_work_of_a_matcher_is_bounded_by_patterns_times_list` |
//! | F52 | a session name that was made fit is also the name of another user | `aws_roles` | `f52_a_name_that_looks_replaced_is_replaced_itself` |
//! | F53 | the payload is not signed as the service wants it | `aws_signatures` | `f53_a_request_is_signed_as_aws_sigv4_signs_it_with_the_settings_of_the_service` |
//! | F54 | a matcher that can never be true is accepted | `aws_roles` | `f54_an_expression_whose_types_do_not_fit_is_an_error_at_construction` |
//! | F63 | a refresh that cannot be stored is given up when the store is back without the claim, so the used refresh token is sent again | `upstream_tokens` | `f63_tokens_are_stored_when_the_store_is_back_without_the_claim` |
//! | F63-older | … or when the store is back with older tokens | `upstream_tokens` | `f63_a_store_that_goes_back_to_older_tokens_gets_the_newest_ones` |
//! | F63-told | … or silently, when it cannot be stored in time | `upstream_tokens` | `f63_tokens_that_cannot_be_stored_in_time_are_told` |
//! | F65 | the upstream tokens of a session go to another user or issuer that names the session | `validated_upstream_tokens` | `f65_a_session_is_of_one_user_of_one_issuer` |
//! | F65-store | … if the store finds them by the session alone | `own_store` | `f65_tokens_that_a_store_finds_by_the_session_alone_are_given_to_no_other_user` |
//! | F66 | upstream tokens are found only by a claim that few issuers send | `validated_upstream_tokens` | `f66_a_users_tokens_are_found_whatever_the_issuer_calls_the_session` |
//! | F67 | a new refresh token is dropped because the rest of the answer is refused | `refresh_answers` | `f67_a_success_that_is_refused_still_brings_its_new_refresh_token` |
//! | F68 | the ID token of another user is taken from a refresh | `refresh_answers` | `f68_an_id_token_of_another_subject_or_issuer_ends_the_tokens_of_the_provider` |
//! | F69 | a token expires while another provider is waited for, and is handed out | `upstream_tokens` | `f69_a_token_that_expires_while_another_provider_is_waited_for_is_refreshed` |
//! | F69-renewed | … and a refresh that ended meanwhile is not used | `upstream_tokens` | `f69_what_was_refreshed_while_another_provider_was_waited_for_is_taken` |
//! | F70 | one token with an unknown key makes good tokens of a new key look bad | `issuer_keys` | `f70_a_token_that_was_not_checked_is_never_called_bad_but_asked_to_wait` |
//! | F71 | a token that is bound in a way that is not understood (`cnf`) is accepted from anybody | `token_validator` | `f71_a_token_that_is_bound_to_a_key_is_refused_unless_it_is_admitted_by_name` |
//! | F71-certificate | … a token that is bound to a certificate is accepted over a connection with any | `certificate_bound_tokens` | `f71_a_bound_token_without_its_certificate_is_refused_in_every_configuration` |
//! | F71-dpop | … a token that is bound to a key is accepted without a proof | `dpop_bound_tokens` | `f71_a_token_that_is_bound_to_a_key_is_refused_without_its_proof_in_every_configuration` |
//! | F71-refresh | … a refresh token that passes introspection | `token_validator` | `f71_what_introspection_does_not_call_an_access_token_is_refused` |
//! | F71-crit | … a header with `crit: null` | `token_validator` | `f71_a_crit_is_refused_whatever_is_in_it` |
//! | F71-array | … a header that is an array | `token_validator` | `f71_a_header_that_is_an_array_is_no_header` |
//! | F72 | a member of an introspection answer that is `null` is taken for one that is there | `token_validator` | `f72_a_member_that_is_null_is_absent_in_an_answer_to_introspection` |
//! | F73 | keys are asked for as `application/json` only, which some issuers answer with 406 | `issuer_keys` | `f73_keys_are_asked_for_in_both_media_types` |
//! | F74 | keys that are not where the issuer's own URL leads cannot be named | `several_issuers` | `f74_keys_are_fetched_where_they_are_said_to_be_and_nothing_else_is` |
//! | F75 | discovery ends at the first document that is odd | `issuer_keys` | `f75_a_document_that_is_odd_does_not_end_the_search_for_the_metadata` |
//! | F76 | a key with a leading zero octet or padding is not read | `issuer_keys` | `f76_keys_that_are_written_a_little_differently_are_read` |
//! | F78-introspection | a wrong client secret at the introspection endpoint is reported as an outage | `token_validator` | `f78_an_endpoint_that_refuses_this_client_is_the_operators_to_mend` |
//! | F79 | each bad token is introspected again | `token_validator` | `f79_a_token_is_introspected_once_for_all_who_bring_it_at_the_same_time` |
//! | F80 | the identity that was built last counts as the newest, although its tokens were read first | `validated_upstream_tokens` | `f80_the_newest_identity_is_the_one_whose_tokens_were_read_last` |
//! | F82 | the gateway's 401 for a refused outgoing request does not say where to log in | `token_validator` | `f82_a_refusal_of_an_outgoing_request_tells_the_caller_where_to_log_in` |
//! | F64 | a store that no longer takes writes is not left, because its answer is inside the text of another error | `redis_faults` | `f64_a_node_that_takes_no_writes_is_left_at_once_whatever_its_answer_looks_like` |
//! | F64-replicas | … because too few replicas confirm its writes | `redis_faults` | `f64_a_primary_without_its_replicas_is_left` |
//! | F64-sentinel | … because a sentinel is silent | `redis_topologies` | `f64_the_new_primary_is_found_although_a_sentinel_is_gone` |
//! | F78-redis | a wrong password, missing rights or a disabled command of Redis is reported as temporary | `redis_faults` | `f78_what_no_other_attempt_mends_is_a_configuration_error_that_says_what_to_do` |
//! | F78-cluster | … and the nodes of a cluster that refuse the login are reported as unreachable | `redis_topologies` | `f78_cluster_settings_that_are_wrong_say_so` |
//! | F81-put | a login that is stored a second time, because the first answer was lost, undoes what came after it | `redis_faults` | `f81_a_put_whose_answer_was_lost_does_not_undo_what_came_after_it` |
//! | F81-lease | a lease that ends far in the future is waited for | `redis_faults` | `f81_a_lease_that_ends_far_in_the_future_is_not_waited_for` |
//! | F55 | the name of an upstream provider that does not exist passes the check | `config` | `f55_a_provider_that_does_not_exist_is_a_fault_that_lists_those_that_do` |
//! | F55-default | … and a missing one is not the first provider | `config` | `f55_a_missing_subject_provider_is_the_first_one` |
//! | F56 | the line break at the end of a client's secret is sent as a part of it | `config` | `f56_a_secret_with_a_line_break_is_refused_and_its_key_named` |
//! | F56-placeholder | … and so is a placeholder that nothing replaced | `config` | `f56_a_placeholder_is_no_secret` |
//! | F56-invisible | … and so is a byte order mark, which nobody sees | `config` | `f56_a_secret_with_a_line_break_is_refused_and_its_key_named` |
//! | F56-variable | … and a placeholder in an environment variable | `strategies` | `f56_a_placeholder_in_an_environment_variable_is_no_secret` |
//! | F57 | one header in two spellings, `x-api-key` and `x_api_key`, leaves with two values | `hop_by_hop` | `f57_no_other_spelling_of_the_header_stays_beside_a_credential` |
//! | F57-trailer | … or as a trailer, which some servers merge into the headers | `hop_by_hop` | `f57_no_trailer_of_a_credentials_name_leaves_with_the_credential` |
//! | F57-issued | … beside an issued token | `token_strategies` | `f57_no_trailer_is_announced_that_has_the_name_of_an_issued_tokens_header` |
//! | F57-http2 | … or over HTTP/2, which sends trailers that are not announced | `hop_by_hop` | `f57_over_http_2_no_trailer_of_a_credentials_name_leaves_either` |
//! | F58 | an error inside of an `io::Error` is not found | `error` | `f58_an_auth_error_is_found_in_what_hides_it_from_the_chain_of_sources` |
//! | F58-required | … and a fault says to leave out a member that is required | `config` | `f58_a_fault_asks_only_for_what_is_possible` |
//! | F58-variable | … or shows a secret that stands in the place of a variable's name | `config` | `f58_a_variable_is_named_where_its_name_looks_like_one` |
//! | F59 | a request that is refused leaves no event | `refusal_events` | `f59_the_advised_filter_shows_one_event_for_each_refusal` |
//! | F59-forward | … because of its forwarded headers | `refusal_events` | `f59_a_refusal_of_forwarded_headers_is_an_event_too` |
//! | F60 | the documentation and the examples let the YAML parser quote secrets in its errors | `config` | `f60_the_documentation_and_the_examples_parse_documents_without_snippets` |
//! | F61 | an assertion of cross-app access without `resource` is refused | `cross_app_access` | `f61_an_assertion_need_not_name_the_resource_unless_that_is_demanded_and_names_no_other` |
//! | F62 | only an ID token can be exchanged for an assertion, which lives for minutes | `cross_app_access` | `f62_any_of_the_users_tokens_may_be_exchanged_under_its_type` |
//! | F62-successor | … a refresh token can, and its successor is lost | `cross_app_access` | `f62_a_refresh_token_is_exchanged_and_its_successor_is_stored_before_the_assertion_is_used` |
//! | F62-replicas | … or a replica presents one that another has used | `cross_app_access` | `f62_replicas_that_exchange_a_refresh_token_at_once_each_present_the_newest` |
//! | F87 | the assertion of a client is addressed to the token endpoint, although the issuer is known | `client_assertions` | `f87_an_assertion_is_for_the_issuer_where_it_is_known` |
//! | F83 | a refusal that lacks the request's id is passed on, and its caller waits for ever | `mcp_answers` | `f83_a_refusal_without_the_requests_id_ends_the_request_with_its_code_and_message` |
//! | F83-event | … in an event stream | `mcp_answers` | `f83_so_does_one_in_an_event_stream` |
//! | F84 | a notification that is answered with 200 and text, HTML or nothing ends the session | `mcp_answers` | `f84_any_success_accepts_a_notification_and_the_session_lives_on` |
//! | F85 | a challenge's `scope` is read from another scheme, or not at all where commas are missing | `challenges` | `f85_the_scope_and_the_error_are_those_of_the_bearer_challenge` |
//! | F86 | a gateway drops headers that MCP needs, such as `Mcp-Method` | `forward_mcp` | `f86_each_header_of_the_protocol_goes_along_and_no_other` |
//! | F91 | a user who links another account still gets the cached tokens of the one before | `cross_app_access` | `f91_a_user_who_links_another_account_gets_tokens_of_that_account_at_once` |
//! | F91-failure | … or is refused for what failed before | `cross_app_access` | `f91_a_user_who_links_the_same_account_again_is_not_refused_for_what_failed_before` |
//! | F92 | a browser that is reloaded while the code is exchanged loses the tokens of the link | `linking_security` | `f92_a_browser_that_goes_away_while_the_code_is_exchanged_has_linked_the_account` |
//! | F93 | of two tabs that start a link at once, the first cannot come back | `linking_security` | `f93_two_tabs_that_start_at_once_both_come_back` |
//! | F94 | a value of the wrong type is also told to be missing | `config` | `f94_what_has_the_wrong_form_is_not_missing_as_well` |
//! | F95 | a user of a session cannot link an account, although a validator knows the session | `linking_security` | `f95_a_session_that_a_validator_found_is_the_one_whose_account_is_linked` |
//! | F96 | a refresh overwrites the account that was linked meanwhile by a replica whose clock is behind | `upstream_tokens` | `f96_another_account_that_is_linked_during_a_refresh_stays_whatever_its_clock_says` |
//!
//! Most faults have more tests than the one in the table. Search for the number to find them.
