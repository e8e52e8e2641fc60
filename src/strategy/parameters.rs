use std::borrow::Cow;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, Faults},
    identity::Identity,
    oauth::{
        request::TokenRequest,
        syntax::{is_parameter_name, is_reserved_parameter},
    },
};

const MAX_VALUE: usize = 4 * 1024;

/// The additional parameters of a token request.
#[derive(Clone, Default)]
pub(super) struct Parameters {
    parameters: Vec<Parameter>,
}

#[derive(Clone)]
struct Parameter {
    name: String,
    value: ParameterValue,
}

#[derive(Clone)]
enum ParameterValue {
    Constant(Zeroizing<String>),
    /// The claim of the user with this name.
    Claim(String),
}

/// The values that the claims of a user give, in the order of the parameters. A request without parameters has none, so
/// that it costs next to nothing.
pub(super) struct FromClaims(Vec<Zeroizing<String>>);

impl Parameters {
    pub(super) fn constant(&mut self, name: &str, value: &str) {
        self.parameters.push(Parameter {
            name: name.to_owned(),
            value: ParameterValue::Constant(Zeroizing::new(value.to_owned())),
        });
    }

    pub(super) fn claim(&mut self, name: &str, claim: &str) {
        self.parameters.push(Parameter {
            name: name.to_owned(),
            value: ParameterValue::Claim(claim.to_owned()),
        });
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        for (index, Parameter { name, value }) in self.parameters.iter().enumerate() {
            let mut earlier = self.parameters.iter().take(index);
            let fault = if !is_parameter_name(name) {
                Some("is not the name of a parameter (RFC 6749, appendix A)")
            } else if is_reserved_parameter(name) {
                Some("is a parameter that the request has by another setting")
            } else if earlier.any(|earlier| earlier.name == *name) {
                Some("is the name of an earlier parameter")
            } else {
                None
            };
            if let Some(fault) = fault {
                faults.add(format!("parameter[{index}].name"), fault);
            }
            match value {
                ParameterValue::Constant(value) if value.is_empty() => faults.add(
                    format!("parameter[{index}].value"),
                    "is empty, leave the parameter out or give it a value",
                ),
                ParameterValue::Claim(claim) if claim.trim().is_empty() => faults.add(
                    format!("parameter[{index}].claim"),
                    "is empty, give the name of a claim",
                ),
                _ => {}
            }
        }
    }

    /// Adds all names and constants, and the names of the claims.
    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        let parameters = self.parameters.iter();
        parameters.fold(scope, |scope, Parameter { name, value }| {
            let scope = scope.field("parameter", name);
            match value {
                ParameterValue::Constant(value) => scope.field("value", value.as_bytes()),
                ParameterValue::Claim(claim) => scope.field("claim", claim),
            }
        })
    }

    /// Takes the values out of the user's claims.
    #[inline]
    pub(super) fn find(&self, identity: &Identity) -> Result<Option<Box<FromClaims>>, AuthError> {
        match self.parameters.is_empty() {
            true => Ok(None),
            false => self.find_claims(identity),
        }
    }

    #[inline(never)]
    fn find_claims(&self, identity: &Identity) -> Result<Option<Box<FromClaims>>, AuthError> {
        let claims = self.parameters.iter().filter_map(Parameter::claim);
        let values = claims.map(|claim| value_of(claim, identity));
        let values = values.collect::<Result<_, _>>()?;
        Ok(Some(Box::new(FromClaims(values))))
    }

    /// Adds the parameters to a request for the user with these values.
    pub(super) fn add_to(
        &self,
        request: TokenRequest,
        values: Option<&FromClaims>,
    ) -> TokenRequest {
        let mut values = values.map_or(&[][..], |values| &values.0).iter();
        let parameters = self.parameters.iter();
        parameters.fold(request, |request, Parameter { name, value }| {
            let value = match value {
                ParameterValue::Constant(value) => Some(value),
                ParameterValue::Claim(_) => values.next(),
            };
            match value {
                Some(value) => request.parameter(Cow::Owned(name.clone()), value),
                None => request,
            }
        })
    }
}

impl Parameter {
    fn claim(&self) -> Option<&str> {
        match &self.value {
            ParameterValue::Constant(_) => None,
            ParameterValue::Claim(claim) => Some(claim),
        }
    }
}

impl FromClaims {
    /// Adds the values, of which each configuration has a fixed number.
    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        let values = self.0.iter();
        values.fold(scope, |scope, value| {
            scope.field("value of claim", value.as_bytes())
        })
    }
}

fn value_of(claim: &str, identity: &Identity) -> Result<Zeroizing<String>, AuthError> {
    let value = match identity.claims().get(claim) {
        None | Some(Value::Null) if claim == "sub" => identity.subject().to_owned(),
        None | Some(Value::Null) => return Err(refusal(claim, "is missing")),
        Some(Value::String(text)) if text.is_empty() => return Err(refusal(claim, "is empty")),
        Some(Value::String(text)) if text.len() > MAX_VALUE => {
            return Err(refusal(claim, "has more than 4 KiB"));
        }
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
        Some(Value::Array(_) | Value::Object(_)) => {
            return Err(refusal(claim, "is a list or an object"));
        }
    };
    Ok(Zeroizing::new(value))
}

#[cold]
fn refusal(claim: &str, fault: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::InsufficientScope,
        format!(
            "the user's claim `{}` {fault}, and the token request needs it; have the issuer add it to its tokens as a short \
             text",
            claim.escape_debug()
        ),
    )
}
