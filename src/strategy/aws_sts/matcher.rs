//! CEL expressions over a user's claims, kept to what can neither abort the process nor stall it.
//!
//! The crate `cel` recurses without a limit while it parses (some 130 KiB of stack for each bracket in a debug build) and
//! while it evaluates, and gives macros no budget. So an expression is short, is parsed on a thread with a stack that is
//! large enough for it, and is then checked against what is known to be bounded.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::LazyLock,
    thread,
};

use cel::{
    Context, ParseErrors, Program, Value as CelValue,
    common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators},
};
use regex::RegexBuilder;
use serde_json::{Map, Value};

const MAX_SOURCE: usize = 1024;
const MAX_BRACKETS: usize = 128;
const MAX_DEPTH: usize = 64;
const MAX_REGEX: usize = 1 << 18;
const LARGE_STACK: usize = 32 << 20;
/// What is nested deeper is not evaluated on the stack of whoever asks: in a debug build each level takes some 40 KiB.
const MAX_DEPTH_IN_PLACE: usize = 12;

const MAX_CLAIM_DEPTH: usize = 32;
const MAX_CLAIM_VALUES: usize = 2048;
const MAX_CLAIM_TEXT: usize = 64 << 10;

/// The only variable of an expression.
const CLAIMS: &str = "claims";

const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "dyn",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "uint",
];

const FUNCTIONS: [&str; 30] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::NOT_STRICTLY_FALSE,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
    MATCHES,
    "bool",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
    "type",
];

const MATCHES: &str = "matches";

/// A compiled expression.
pub(super) struct Matcher {
    program: Program,
    depth: usize,
}

/// The expression has no answer, true or false, for these claims.
pub(super) struct NotEvaluated;

impl Matcher {
    /// Compiles an expression that is known to be bounded. The error is a sentence whose subject is the expression.
    pub(super) fn compile(source: &str) -> Result<Self, Cow<'static, str>> {
        check_source(source)?;
        let source = source.to_owned();
        let parsing = thread::Builder::new()
            .name("cel".into())
            .stack_size(LARGE_STACK)
            .spawn(move || {
                let program = Program::compile(&source).map_err(|errors| positions(&errors))?;
                let depth = check_syntax(program.expression())?;
                Ok(Self { program, depth })
            })
            .map_err(|_| "cannot be compiled, because no thread could be started")?;
        parsing
            .join()
            .unwrap_or(Err("cannot be compiled, because its parser panicked".into()))
    }

    pub(super) fn matches(&self, claims: &BoundClaims) -> Result<bool, NotEvaluated> {
        let context = claims.context.as_ref().ok_or(NotEvaluated)?;
        let evaluate = || match self.program.execute(context) {
            Ok(CelValue::Bool(answer)) => Ok(answer),
            _ => Err(NotEvaluated),
        };
        let evaluated = if self.depth <= MAX_DEPTH_IN_PLACE {
            catch_unwind(AssertUnwindSafe(evaluate))
        } else {
            thread::scope(|scope| {
                let thread = thread::Builder::new().name("cel".into());
                let evaluating = thread.stack_size(LARGE_STACK).spawn_scoped(scope, evaluate);
                evaluating
                    .map_err(|_| NotEvaluated)
                    .map(|evaluating| evaluating.join())
            })?
        };
        evaluated.unwrap_or(Err(NotEvaluated))
    }
}

/// A user's claims as the variable `claims`.
pub(super) struct BoundClaims {
    context: Option<Context<'static, 'static>>,
}

impl BoundClaims {
    /// Claims that are too many or too deep are not bound, and no expression is evaluated over them.
    pub(super) fn new(claims: &Map<String, Value>) -> Self {
        static BASE: LazyLock<Context<'static, 'static>> = LazyLock::new(Context::default);

        let context = are_bounded(claims).then(|| {
            let mut context = BASE.new_inner_scope();
            context.add_variable_from_value(CLAIMS, object(claims));
            context
        });
        Self { context }
    }
}

fn are_bounded(claims: &Map<String, Value>) -> bool {
    let mut values = 0;
    let mut text = 0;
    let mut pending: Vec<(usize, &Value)> = Vec::new();
    for (name, value) in claims {
        text += name.len();
        pending.push((1, value));
    }
    while let Some((depth, value)) = pending.pop() {
        values += 1;
        match value {
            Value::String(string) => text += string.len(),
            Value::Array(members) => {
                pending.extend(members.iter().map(|member| (depth + 1, member)));
            }
            Value::Object(members) => {
                text += members.keys().map(String::len).sum::<usize>();
                pending.extend(members.values().map(|member| (depth + 1, member)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        if depth > MAX_CLAIM_DEPTH || values > MAX_CLAIM_VALUES || text > MAX_CLAIM_TEXT {
            return false;
        }
    }
    true
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

fn check_source(source: &str) -> Result<(), &'static str> {
    if source.trim().is_empty() {
        return Err("is empty");
    }
    if source.len() > MAX_SOURCE {
        return Err("is longer than 1,024 bytes");
    }
    let brackets = source.bytes().filter(|byte| b"([{".contains(byte)).count();
    if brackets > MAX_BRACKETS {
        return Err("has more than 128 opening brackets");
    }
    Ok(())
}

/// A node of the syntax, and where it stands.
struct Node<'a> {
    expression: &'a IdedExpr,
    depth: usize,
    in_macro: bool,
}

/// Returns how deep it is nested.
fn check_syntax(root: &IdedExpr) -> Result<usize, &'static str> {
    let mut depth = 0;
    let mut variables = HashSet::new();
    let mut names = Vec::new();
    let mut pending = vec![Node {
        expression: root,
        depth: 1,
        in_macro: false,
    }];
    while let Some(node) = pending.pop() {
        depth = depth.max(node.depth);
        if depth > MAX_DEPTH {
            return Err("is nested more than 64 deep, or is a chain of more than 64 operators");
        }
        let mut enter = |in_macro, expression| {
            pending.push(Node {
                expression,
                depth: node.depth + 1,
                in_macro: node.in_macro || in_macro,
            });
        };
        match &node.expression.expr {
            Expr::Unspecified | Expr::Struct(_) => {
                return Err("has a message, and there are none here");
            }
            Expr::Literal(_) => {}
            Expr::Ident(name) => names.push(name.as_str()),
            Expr::Select(select) => enter(false, &select.operand),
            Expr::List(list) => list.elements.iter().for_each(|member| enter(false, member)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            enter(false, &entry.key);
                            enter(false, &entry.value);
                        }
                        EntryExpr::StructField(field) => enter(false, &field.value),
                    }
                }
            }
            Expr::Call(call) => {
                if !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err("calls a function that there is not, or not here");
                }
                if call.func_name == MATCHES {
                    check_pattern(call.args.last())?;
                }
                call.target.iter().for_each(|target| enter(false, target));
                call.args.iter().for_each(|argument| enter(false, argument));
            }
            Expr::Comprehension(comprehension) => {
                if node.in_macro {
                    return Err(
                        "has an `exists`, `all` or `filter` inside of another, or of what another goes through",
                    );
                }
                if is_map(&comprehension.loop_step, &comprehension.iter_var) {
                    return Err(
                        "uses `map`; `exists`, `exists_one`, `all` and `filter` may be used",
                    );
                }
                variables.insert(comprehension.iter_var.as_str());
                variables.insert(comprehension.accu_var.as_str());
                for part in [
                    &comprehension.iter_range,
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ] {
                    enter(true, part);
                }
            }
        }
    }
    let is_known =
        |name: &&str| *name == CLAIMS || TYPES.contains(name) || variables.contains(*name);
    if names.iter().all(is_known) {
        Ok(depth)
    } else {
        Err("has another variable than `claims`")
    }
}

/// Whether a macro builds a list of something else than what it goes through: that could be of any size.
fn is_map(step: &IdedExpr, member: &str) -> bool {
    let Expr::Call(call) = &step.expr else {
        return false;
    };
    let added = match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::ADD, [_, added]) => added,
        (operators::CONDITIONAL, [_, then, _]) => return is_map(then, member),
        _ => return false,
    };
    match &added.expr {
        Expr::List(list) => match list.elements.as_slice() {
            [only] => !matches!(&only.expr, Expr::Ident(name) if name == member),
            _ => true,
        },
        _ => false,
    }
}

/// A pattern is compiled each time, so what that costs is known from the start.
fn check_pattern(pattern: Option<&IdedExpr>) -> Result<(), &'static str> {
    let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern.map(|pattern| &pattern.expr)
    else {
        return Err("has a `matches` whose pattern is not a text that is written out");
    };
    RegexBuilder::new(pattern.inner())
        .size_limit(MAX_REGEX)
        .build()
        .map(drop)
        .map_err(|_| "has a `matches` whose pattern is not a regular expression, or is a large one")
}

/// Where each error is. Its text quotes the source, so it goes no further.
#[cold]
fn positions(errors: &ParseErrors) -> String {
    let positions = errors.errors.iter().map(|error| {
        let (line, column) = error.pos;
        format!("line {line}, column {column}")
    });
    let positions = positions.collect::<Vec<_>>().join("; ");
    format!("does not compile: {positions}")
}
