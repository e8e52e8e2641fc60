//! What strangers and operators may send, kept to what is promised: seeds of each kind, changed here and there, and bytes
//! of any kind. `tests/fuzz` runs the same bodies under libFuzzer.

mod assertion;
mod challenge;
mod configuration;
mod event_stream;
mod harness;
mod introspection;
mod issuer_documents;
#[path = "../support/key_pair.rs"]
mod key_pair;
mod mcp_answer;
mod mutation;
mod origin;
mod redirect;
mod roles;
mod signed_request;
#[path = "../support/sigv4.rs"]
mod sigv4;
mod sts_answer;
mod token;
mod token_response;

use mutation::hold;

#[test]
fn a_token_endpoint_issues_a_token_that_can_be_sent_or_an_error_that_shows_nothing_of_its_answer() {
    hold("token_response", 2000, token_response::check);
}

#[test]
fn an_assertion_is_passed_on_only_if_it_is_of_the_users_issuer_and_for_the_server_that_was_asked_for()
 {
    hold("assertion", 1000, assertion::check);
}

#[test]
fn an_opaque_token_is_accepted_only_if_its_issuer_says_that_it_is_active_and_for_this_audience() {
    hold("introspection", 1000, introspection::check);
}

#[test]
fn keys_come_from_the_issuers_own_documents_alone() {
    hold("issuer_documents", 1000, issuer_documents::check);
}

#[test]
fn a_token_is_accepted_only_if_the_issuer_has_signed_it_for_this_audience_and_time() {
    hold("token", 1000, token::check);
}

#[test]
fn aws_sts_gives_credentials_that_can_be_sent_or_an_error_that_shows_nothing_of_its_answer() {
    hold("sts_answer", 500, sts_answer::check);
}

#[test]
fn what_is_signed_for_aws_is_what_is_sent() {
    hold("signed_request", 1000, signed_request::check);
}

#[test]
fn an_expression_over_claims_is_refused_or_evaluated_and_aborts_nothing() {
    hold("role_expression", 500, roles::check_expression);
}

#[test]
fn an_expression_is_true_of_no_claims_that_it_does_not_describe() {
    hold("role_claims", 1000, roles::check_claims);
}

#[test]
fn a_name_for_aws_is_what_aws_takes_or_an_error() {
    hold("aws_names", 200, roles::check_names);
}

#[test]
fn a_configuration_is_checked_as_a_whole_and_shows_no_secret() {
    hold("configuration", 1000, configuration::check);
}

#[test]
fn a_credential_reaches_its_origin_alone_wherever_a_request_or_a_redirect_points() {
    hold("redirect", 2000, redirect::check);
}

#[test]
fn an_origin_is_a_scheme_a_host_and_a_port_and_a_token_fits_a_header() {
    hold("origin", 2000, origin::check);
}

#[test]
fn a_challenge_that_is_written_says_what_was_configured_and_nothing_else() {
    hold("challenge_written", 1000, challenge::check_written);
}

#[test]
fn the_scope_that_is_read_of_a_challenge_is_a_part_of_it() {
    hold("challenge_read", 1000, challenge::check_read);
}

#[test]
fn an_mcp_server_can_refuse_or_answer_and_no_more() {
    hold("mcp_answer", 1000, mcp_answer::check);
}

#[test]
fn events_do_not_depend_on_chunks_and_end_at_the_limit() {
    hold("event_stream", 1000, event_stream::check);
}
