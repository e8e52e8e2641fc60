//! The kinds of backends that have a block, one file for each. `backend.rs` has the list of them. A kind in the list
//! must be re-exported by `config` and have all parts of [`Kind`](super::kind::Kind), or it does not compile.

pub(super) mod aws_sts;
pub(super) mod cross_app_access;
pub(super) mod header_injection;
pub(super) mod on_behalf_of;
pub(super) mod token_exchange;
pub(super) mod upstream_inject;

/// A token type's URN without what all have in common (RFC 8693 §3), which may be left out.
fn short_token_type(token_type: &str) -> &str {
    let prefix = "urn:ietf:params:oauth:token-type:";
    token_type.strip_prefix(prefix).unwrap_or(token_type)
}
