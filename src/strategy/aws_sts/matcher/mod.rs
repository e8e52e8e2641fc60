//! CEL expressions over a user's claims, kept to what can neither abort the process nor stall it.
//!
//! The crate `cel` recurses without a limit while it parses (some 130 KiB of stack for each bracket in a debug build) and
//! while it evaluates, and gives macros no budget. So an expression is short, is parsed on a thread with a stack that is
//! large enough for it, and is then checked against what is known to be bounded.

mod claims;
mod cost;
mod patterns;
mod types;

use std::{
    borrow::Cow,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
    thread,
};

use cel::{
    Context, Env, ParseErrors, Value as CelValue,
    common::ast::{EntryExpr, Expr, IdedExpr, operators},
};

pub(super) use claims::BoundClaims;

use claims::CLAIMS;
use cost::Cost;
use patterns::{MATCHES, Patterns};
use types::check_types;

const MAX_SOURCE: usize = 1024;
const MAX_BRACKETS: usize = 128;
const MAX_DEPTH: usize = 64;
const LARGE_STACK: usize = 32 << 20;
/// The deepest nesting that is evaluated on the caller's stack. In a debug build each level takes about 40 KiB.
const MAX_DEPTH_IN_PLACE: usize = 12;

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

/// A compiled expression.
pub(super) struct Matcher {
    expression: IdedExpr,
    context: Context<'static, 'static>,
    cost: Cost,
    depth: usize,
}

/// The expression has no answer, true or false, for these claims.
pub(super) struct NotEvaluated;

impl Matcher {
    /// Compiles an expression that is known to be bounded. The error is a sentence whose subject is the expression.
    pub(super) fn compile(source: &str) -> Result<Self, Cow<'static, str>> {
        check_source(source)?;
        let source = source.to_owned();
        let compiling = thread::Builder::new()
            .name("cel".into())
            .stack_size(LARGE_STACK)
            .spawn(move || Self::compile_here(&source))
            .map_err(|_| "cannot be compiled, because no thread could be started")?;
        compiling
            .join()
            .unwrap_or(Err("cannot be compiled, because its parser panicked".into()))
    }

    fn compile_here(source: &str) -> Result<Self, Cow<'static, str>> {
        static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

        let mut expression = ENV
            .parser()
            .parse(source)
            .map_err(|errors| first_error(&errors))?;
        let depth = check_syntax(&expression)?;
        check_types(&expression)?;
        let patterns = Patterns::extract(&mut expression)?;
        let cost = Cost::of(&expression, &patterns);
        let mut context = Context::with_env(Arc::clone(&ENV));
        patterns.declare(&mut context)?;
        Ok(Self {
            expression,
            context,
            cost,
            depth,
        })
    }

    pub(super) fn matches(&self, claims: &BoundClaims) -> Result<bool, NotEvaluated> {
        if !claims.are_bound() || !self.cost.is_affordable(claims.amount()) {
            return Err(NotEvaluated);
        }
        let evaluate = || {
            let mut context = self.context.new_inner_scope();
            context.set_variable_resolver(claims);
            match CelValue::resolve(&self.expression, &context) {
                Ok(CelValue::Bool(answer)) => Ok(answer),
                _ => Err(NotEvaluated),
            }
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

/// Where the first error is. Its text quotes the source, so it goes no further.
#[cold]
fn first_error(errors: &ParseErrors) -> String {
    match errors.errors.first().map(|error| error.pos) {
        Some((line, column)) => format!("does not compile: line {line}, column {column}"),
        None => "does not compile".to_owned(),
    }
}
