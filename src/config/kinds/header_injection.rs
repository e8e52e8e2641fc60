use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::Block,
        kind::{Kind, keys, write_redacted},
        variable_name::VariableName,
    },
    secret::Secret,
    strategy::{header_injection::HeaderInjection, strategy::Strategy},
};

keys! {
    /// A fixed header.
    pub struct HeaderInjectionConfig {
        /// The name of the header.
        "headerName" => header_name: String,
        /// Its value. Either this or `headerValueEnv`.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "write_redacted"
        )]
        #[schemars(with = "Option<String>")]
        "headerValue" => header_value: Option<Secret>,
        /// The environment variable that has its value.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerValueEnv" => header_value_env: Option<VariableName>,
    }
}

impl HeaderInjectionConfig {
    /// The header of this name. Set one of `header_value` and `header_value_env`.
    pub fn new(header_name: impl Into<String>) -> Self {
        Self {
            header_name: header_name.into(),
            ..Self::default()
        }
    }
}

impl Kind for HeaderInjectionConfig {
    const TYPE: &'static str = "header_injection";
    const BLOCK: &'static str = "headerInjection";

    fn headers(&self) -> Vec<String> {
        vec![self.header_name.clone()]
    }

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.need("headerName", &self.header_name);
        let has_value = self.header_value.is_some() || self.header_value_env.is_some();
        block.need_secret("headerValue", has_value);
        let value = block.secret(
            ("headerValue", &self.header_value),
            ("headerValueEnv", &self.header_value_env),
        );
        let value = value
            .map(|value| value.expose().to_owned())
            .ok_or_else(|| "is missing".to_owned());
        let value_keys: &[_] = match &self.header_value_env {
            Some(_) => &["headerValueEnv", "headerValue"],
            None => &["headerValue", "headerValueEnv"],
        };
        let strategy = block.built(
            HeaderInjection::make(&self.header_name, value, "value"),
            &[("name", &["headerName"]), ("value", value_keys)],
        )?;
        Some(Arc::new(strategy))
    }
}
