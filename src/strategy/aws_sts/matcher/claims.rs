use std::collections::HashMap;

use cel::{
    Value as CelValue, common::value::CowVal, common::value::Val, context::VariableResolver,
};
use serde_json::{Map, Value};

use super::cost::Amount;

const MAX_DEPTH: usize = 32;
const MAX_VALUES: u64 = 2048;
const MAX_TEXT: u64 = 64 << 10;

/// The only variable of an expression.
pub(super) const CLAIMS: &str = "claims";

/// A user's claims as the variable `claims`.
pub(in super::super) struct BoundClaims {
    value: Option<Box<dyn Val>>,
    amount: Amount,
}

impl BoundClaims {
    /// Binds the claims, unless there are none, or they are too many or too deep. Without them, no expression has an
    /// answer.
    pub(in super::super) fn new(claims: &Map<String, Value>) -> Self {
        let amount = amount_of(claims).filter(|amount| amount.values > 0);
        let value = amount.and_then(|_| object(claims).try_into().ok());
        Self {
            value,
            amount: amount.unwrap_or_default(),
        }
    }

    pub(super) fn are_bound(&self) -> bool {
        self.value.is_some()
    }

    pub(super) fn amount(&self) -> Amount {
        self.amount
    }
}

impl VariableResolver for BoundClaims {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let value = self.value.as_deref().filter(|_| variable == CLAIMS)?;
        Some(CowVal::Borrowed(value))
    }
}

/// How many values there are, and how much text. `None` is too much.
fn amount_of(claims: &Map<String, Value>) -> Option<Amount> {
    let mut values = 0;
    let mut text = 0;
    let mut pending: Vec<(usize, &Value)> = Vec::new();
    for (name, value) in claims {
        text += name.len() as u64;
        pending.push((1, value));
    }
    while let Some((depth, value)) = pending.pop() {
        values += 1;
        match value {
            Value::String(string) => text += string.len() as u64,
            Value::Array(members) => {
                pending.extend(members.iter().map(|member| (depth + 1, member)));
            }
            Value::Object(members) => {
                text += members.keys().map(|name| name.len() as u64).sum::<u64>();
                pending.extend(members.values().map(|member| (depth + 1, member)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if depth > MAX_DEPTH || values > MAX_VALUES || text > MAX_TEXT {
            return None;
        }
    }
    Some(Amount { values, text })
}

fn object(members: &Map<String, Value>) -> CelValue {
    let members: HashMap<String, CelValue> = members
        .iter()
        .map(|(name, value)| (name.clone(), bound(value)))
        .collect();
    members.into()
}

fn bound(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => CelValue::Int(number),
            (None, Some(number)) => CelValue::UInt(number),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.clone().into(),
        Value::Array(members) => members.iter().map(bound).collect::<Vec<_>>().into(),
        Value::Object(members) => object(members),
    }
}
