//! The types of an expression, as far as it tells them: a claim may be of any.

use std::fmt;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};

use super::{claims::CLAIMS, patterns::MATCHES};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Bool,
    Bytes,
    Double,
    Int,
    List,
    Map,
    Null,
    Text,
    Kind,
    Uint,
}

impl Type {
    fn is(self, one_of: &[Self]) -> bool {
        self == Self::Any || one_of.contains(&self)
    }

    /// Whether a value of one type can be equal to one of the other.
    fn can_equal(self, other: Self) -> bool {
        self == Self::Any
            || other.is(&[self])
            || (NUMBERS.contains(&self) && NUMBERS.contains(&other))
    }

    fn or(self, other: Self) -> Self {
        if self == other { self } else { Self::Any }
    }
}

const NUMBERS: [Type; 3] = [Type::Double, Type::Int, Type::Uint];

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any value",
            Self::Bool => "a bool",
            Self::Bytes => "bytes",
            Self::Double => "a double",
            Self::Int => "an int",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Null => "null",
            Self::Text => "a string",
            Self::Kind => "a type",
            Self::Uint => "a uint",
        })
    }
}

/// Checks that an expression can be true or false. The error is a sentence whose subject is the expression.
pub(super) fn check_types(root: &IdedExpr) -> Result<(), String> {
    let result = Checker::default().infer(root)?;
    if result.is(&[Type::Bool]) {
        Ok(())
    } else {
        Err(format!("is {result}, and neither true nor false"))
    }
}

/// The variables of the macro that is being checked. Macros are not nested.
#[derive(Default)]
struct Checker<'a> {
    member: Option<(&'a str, Type)>,
    accumulator: Option<(&'a str, Type)>,
}

impl<'a> Checker<'a> {
    fn infer(&mut self, node: &'a IdedExpr) -> Result<Type, String> {
        Ok(match &node.expr {
            Expr::Unspecified | Expr::Struct(_) => Type::Any,
            Expr::Literal(literal) => type_of(literal),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let operand = self.infer(&select.operand)?;
                if !operand.is(&[Type::Map]) {
                    return Err(format!("reads a field of {operand}, which has none"));
                }
                if select.test { Type::Bool } else { Type::Any }
            }
            Expr::List(list) => {
                for member in &list.elements {
                    self.infer(member)?;
                }
                Type::List
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.infer(&entry.key)?;
                        self.infer(&entry.value)?;
                    }
                }
                Type::Map
            }
            Expr::Call(call) => self.call(call)?,
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
        })
    }

    fn variable(&self, name: &str) -> Type {
        let known = [self.accumulator, self.member];
        let mut known = known.into_iter().flatten();
        match known.find(|(known, _)| *known == name) {
            Some((_, variable)) => variable,
            None if name == CLAIMS => Type::Map,
            None => Type::Kind,
        }
    }

    fn comprehension(&mut self, comprehension: &'a ComprehensionExpr) -> Result<Type, String> {
        let range = self.infer(&comprehension.iter_range)?;
        if !range.is(&[Type::List, Type::Map]) {
            return Err(format!(
                "has a macro that goes through {range}, and not through a list"
            ));
        }
        let member = if range == Type::Map {
            Type::Text
        } else {
            Type::Any
        };
        let accumulator = self.infer(&comprehension.accu_init)?;
        self.member = Some((&comprehension.iter_var, member));
        self.accumulator = Some((&comprehension.accu_var, accumulator));
        self.infer(&comprehension.loop_cond)?;
        self.infer(&comprehension.loop_step)?;
        let result = self.infer(&comprehension.result)?;
        (self.member, self.accumulator) = (None, None);
        Ok(result)
    }

    fn call(&mut self, call: &'a CallExpr) -> Result<Type, String> {
        let mut operands = Vec::with_capacity(call.args.len() + 1);
        for operand in call.target.as_deref().into_iter().chain(&call.args) {
            operands.push(self.infer(operand)?);
        }
        match (call.func_name.as_str(), operands.as_slice()) {
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                expect("a condition", *condition, &[Type::Bool])?;
                Ok(then.or(*otherwise))
            }
            (
                operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::NOT_STRICTLY_FALSE,
                operands,
            ) => {
                for operand in operands {
                    expect(
                        "an operand of `&&`, `||`, `!` or a macro",
                        *operand,
                        &[Type::Bool],
                    )?;
                }
                Ok(Type::Bool)
            }
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
                if !left.can_equal(*right) {
                    return Err(format!(
                        "compares {left} with {right}, which are never equal"
                    ));
                }
                Ok(Type::Bool)
            }
            (
                operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS,
                [left, right],
            ) => {
                for operand in [left, right] {
                    expect("an operand of `<` or `>`", *operand, &ORDERED)?;
                }
                if !left.can_equal(*right) {
                    return Err(format!("compares {left} with {right}, which have no order"));
                }
                Ok(Type::Bool)
            }
            (operators::ADD, [left, right]) => arithmetic("+", *left, *right, &ADDED),
            (
                operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO,
                [left, right],
            ) => arithmetic("-`, `*`, `/` or `%", *left, *right, &NUMBERS),
            (operators::NEGATE, [operand]) => {
                expect("an operand of `-`", *operand, &[Type::Double, Type::Int])?;
                Ok(*operand)
            }
            (operators::INDEX, [indexed, index]) => {
                expect("what is indexed", *indexed, &[Type::List, Type::Map])?;
                match indexed {
                    Type::List => expect("the index of a list", *index, &NUMBERS)?,
                    _ => expect("a key", *index, &KEYS)?,
                }
                Ok(Type::Any)
            }
            (operators::IN, [_, range]) => {
                expect("the right side of `in`", *range, &[Type::List, Type::Map])?;
                Ok(Type::Bool)
            }
            (name, operands) => function(name, call.target.is_some(), operands),
        }
    }
}

const ORDERED: [Type; 6] = [
    Type::Bool,
    Type::Bytes,
    Type::Double,
    Type::Int,
    Type::Text,
    Type::Uint,
];
const ADDED: [Type; 6] = [
    Type::Bytes,
    Type::Double,
    Type::Int,
    Type::List,
    Type::Text,
    Type::Uint,
];
const KEYS: [Type; 5] = [Type::Bool, Type::Double, Type::Int, Type::Text, Type::Uint];
const SIZED: [Type; 4] = [Type::Bytes, Type::List, Type::Map, Type::Text];

/// A function that is called by its name, with the target first if there is one.
fn function(name: &str, has_target: bool, operands: &[Type]) -> Result<Type, String> {
    let (is_fit, result) = match (name, has_target, operands) {
        ("size", _, [operand]) => (operand.is(&SIZED), Type::Int),
        ("contains" | "startsWith" | "endsWith", true, [text, part])
        | (MATCHES, _, [text, part]) => {
            (text.is(&[Type::Text]) && part.is(&[Type::Text]), Type::Bool)
        }
        ("type", false, [_]) => (true, Type::Kind),
        ("dyn", false, [_]) => (true, Type::Any),
        ("bool", false, [operand]) => (operand.is(&[Type::Bool, Type::Text]), Type::Bool),
        ("double", false, [operand]) => (is_number_or_text(*operand), Type::Double),
        ("int", false, [operand]) => (is_number_or_text(*operand), Type::Int),
        ("string", false, [operand]) => (operand.is(&ORDERED), Type::Text),
        _ => {
            let count = operands.len() - usize::from(has_target);
            let kind = if has_target { "of a value" } else { "of none" };
            return Err(format!(
                "calls `{name}` {kind} with {count} arguments, and there is none such"
            ));
        }
    };
    if is_fit {
        return Ok(result);
    }
    let operands: Vec<_> = operands.iter().map(Type::to_string).collect();
    Err(format!("calls `{name}` with {}", operands.join(" and ")))
}

fn is_number_or_text(operand: Type) -> bool {
    operand == Type::Text || operand.is(&NUMBERS)
}

fn arithmetic(operator: &str, left: Type, right: Type, types: &[Type]) -> Result<Type, String> {
    for operand in [left, right] {
        expect(&format!("an operand of `{operator}`"), operand, types)?;
    }
    match (left, right) {
        (Type::Any, other) | (other, Type::Any) => Ok(other),
        (left, right) if left == right => Ok(left),
        (left, right) => Err(format!("computes `{operator}` of {left} and {right}")),
    }
}

fn expect(place: &str, found: Type, one_of: &[Type]) -> Result<(), String> {
    if found.is(one_of) {
        return Ok(());
    }
    Err(format!("has {found} as {place}"))
}

fn type_of(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::Text,
        LiteralValue::UInt(_) => Type::Uint,
    }
}
