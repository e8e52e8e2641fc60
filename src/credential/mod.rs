//! Credentials that are obtained for a user, and kept.

pub mod cache;
