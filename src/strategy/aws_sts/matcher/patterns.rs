use cel::{
    Context,
    common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue},
    extractors::This,
};
use regex::{Regex, RegexBuilder};
use std::sync::Arc;

pub(super) const MATCHES: &str = "matches";

const MIN_SIZE: usize = 1 << 10;
const MAX_SIZE: usize = 1 << 18;
/// The bytes that one state of a pattern's automaton takes, rounded down.
const STATE: usize = 16;

/// The patterns of an expression, each compiled once.
#[derive(Default)]
pub(super) struct Patterns {
    patterns: Vec<Pattern>,
}

struct Pattern {
    regex: Regex,
    states: u64,
}

impl Patterns {
    /// Compiles the pattern of each `matches`, and lets the call name the compiled one.
    pub(super) fn extract(root: &mut IdedExpr) -> Result<Self, &'static str> {
        let mut patterns = Vec::new();
        let mut pending = vec![root];
        while let Some(node) = pending.pop() {
            match &mut node.expr {
                Expr::Call(call) => {
                    if call.func_name == MATCHES {
                        let pattern = call.args.pop();
                        call.func_name = name(patterns.len());
                        patterns.push(Pattern::compile(pattern.as_ref())?);
                        if let Some(target) = call.target.take() {
                            call.args.push(*target);
                        }
                    }
                    pending.extend(call.target.as_deref_mut());
                    pending.extend(&mut call.args);
                }
                Expr::Comprehension(comprehension) => pending.extend([
                    &mut comprehension.iter_range,
                    &mut comprehension.accu_init,
                    &mut comprehension.loop_cond,
                    &mut comprehension.loop_step,
                    &mut comprehension.result,
                ]),
                Expr::Select(select) => pending.push(&mut select.operand),
                Expr::List(list) => pending.extend(&mut list.elements),
                Expr::Map(map) => {
                    for entry in &mut map.entries {
                        if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                            pending.extend([&mut entry.key, &mut entry.value]);
                        }
                    }
                }
                Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) => {}
            }
        }
        Ok(Self { patterns })
    }

    /// Returns how many states the pattern of a call has, or `None` for a call of another function.
    pub(super) fn states(&self, function: &str) -> Option<u64> {
        let index = function.strip_prefix(PREFIX)?.parse::<usize>().ok()?;
        self.patterns.get(index).map(|pattern| pattern.states)
    }

    /// Makes the compiled patterns functions of the context.
    pub(super) fn declare(
        self,
        context: &mut Context<'static, 'static>,
    ) -> Result<(), &'static str> {
        for (index, Pattern { regex, .. }) in self.patterns.into_iter().enumerate() {
            context
                .add_function(&name(index), move |This(text): This<Arc<String>>| {
                    regex.is_match(&text)
                })
                .map_err(|_| "has a pattern that cannot be declared")?;
        }
        Ok(())
    }
}

impl Pattern {
    fn compile(pattern: Option<&IdedExpr>) -> Result<Self, &'static str> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern.map(|node| &node.expr)
        else {
            return Err("has a `matches` whose pattern is not a text that is written out");
        };
        let regex = RegexBuilder::new(pattern.inner())
            .size_limit(MAX_SIZE)
            .build()
            .map_err(
                |_| "has a `matches` whose pattern is not a regular expression, or is a large one",
            )?;
        Ok(Self {
            regex,
            states: states(pattern.inner()),
        })
    }
}

/// How many states of the pattern's automaton can be active at once, rounded up to a power of two. A class of Unicode has
/// many states and few that are active, so it is taken for one of ASCII where that is possible.
fn states(pattern: &str) -> u64 {
    let is_within = |unicode, size| {
        let mut builder = regex::bytes::RegexBuilder::new(pattern);
        builder.unicode(unicode).size_limit(size).build().is_ok()
    };
    let unicode = !is_within(false, MAX_SIZE);
    let mut size = MIN_SIZE;
    while size < MAX_SIZE && !is_within(unicode, size) {
        size *= 2;
    }
    (size / STATE) as u64
}

/// No function of an expression is written with a space.
const PREFIX: &str = "matches ";

fn name(index: usize) -> String {
    format!("{PREFIX}{index}")
}
