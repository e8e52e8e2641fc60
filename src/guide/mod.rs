//! Guides: the way to where you want to be, step by step.
//!
//! | you | page |
//! | --- | --- |
//! | have a hyper client | [`hyper`] |
//! | have reqwest | [`reqwest`] |
//! | have an MCP client of the Rust SDK | [`rmcp`] |
//! | write a gateway | [`gateway`] |
//! | come from ToolHive | [`toolhive`] |
//! | write your own strategy | [`strategy`] |
//! | want the threat model, what is promised, and by which test | [`security`] |
//! | want to know which faults of others were looked for | [`faults`] |
//! | run several replicas | [`replicas`] |
//! | got an error | [`troubleshooting`] |
//!
//! These modules hold text alone. What the parts do in detail is in their own documentation.

pub mod faults;
pub mod gateway;
pub mod hyper;
pub mod replicas;
pub mod reqwest;
pub mod rmcp;
pub mod security;
pub mod strategy;
pub mod toolhive;
pub mod troubleshooting;
