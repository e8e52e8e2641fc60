//! Guides: step-by-step pages for common tasks, and background.
//!
//! | task | page |
//! | --- | --- |
//! | add the layers to a hyper client | [`hyper`] |
//! | add the layers to a reqwest client | [`reqwest`] |
//! | add the layers to a gRPC client of tonic | [`tonic`] |
//! | add the layers to an MCP client of the Rust SDK | [`rmcp`] |
//! | protect an axum API | [`axum`] |
//! | write a gateway | [`gateway`] |
//! | move from ToolHive | [`toolhive`] |
//! | test your gateway without network | [`test_your_gateway`] |
//! | write a strategy | [`strategy`] |
//! | run several replicas | [`replicas`] |
//! | watch metrics and traces | [`monitoring`] |
//! | find the cause of an error | [`troubleshooting`] |
//! | know what the layers cost | [`cost`] |
//! | read the threat model, and the test for each promise | [`security`] |
//! | see which faults of other systems are tested for | [`faults`] |
//! | run the tests, the fuzzers and the soak test | [`testing`] |
//!
//! The guides contain only text. Each type's own documentation has the details.

pub mod axum;
pub mod cost;
pub mod faults;
pub mod gateway;
pub mod hyper;
pub mod monitoring;
pub mod replicas;
pub mod reqwest;
pub mod rmcp;
pub mod security;
pub mod strategy;
#[cfg(feature = "testing")]
pub mod test_your_gateway;
pub mod testing;
pub mod tonic;
pub mod toolhive;
pub mod troubleshooting;
