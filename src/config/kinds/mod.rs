//! The kinds of backends that have a block, one file for each. `backend.rs` has the list of them. A kind in the list
//! must be re-exported by `config` and have all parts of [`Kind`](super::kind::Kind), or it does not compile.

use crate::{oauth::token_type::TokenType, strategy::placement::Placement};

use super::block::Block;

pub(super) mod aws_sts;
pub(super) mod both;
pub(super) mod claim_injection;
pub(super) mod client_credentials;
pub(super) mod cross_app_access;
pub(super) mod header_injection;
pub(super) mod on_behalf_of;
pub(super) mod signed_identity;
pub(super) mod token_exchange;
pub(super) mod upstream_inject;

/// The placement of a token, unless it is the default.
fn placement<B>(
    block: &mut Block<'_, B>,
    name: Option<&str>,
    prefix: Option<&str>,
) -> Option<Placement> {
    let Some(name) = name else {
        if prefix.is_some() {
            let message = "is there without `headerName`, give it too";
            block.lack("headerPrefix", &["headerName"], message);
        }
        return None;
    };
    let named = Placement::header(name);
    let placement = named.and_then(|named| named.prefix(prefix.unwrap_or_default()));
    block.built(
        placement,
        &[("name", &["headerName"]), ("prefix", &["headerPrefix"])],
    )
}

/// The header that a token is sent in.
fn header_of_token(name: Option<&str>) -> String {
    name.unwrap_or("authorization").to_owned()
}

/// The type of the user's token, by its short name or its URN.
fn token_type(text: &str) -> TokenType {
    let urn = match text.contains(':') {
        true => text.to_owned(),
        false => format!("{TOKEN_TYPE}{text}"),
    };
    TokenType::of_urn(&urn)
}

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

/// A token type's URN without what all have in common (RFC 8693 §3), which may be left out.
fn short_token_type(token_type: &str) -> &str {
    token_type.strip_prefix(TOKEN_TYPE).unwrap_or(token_type)
}
