//! How much work an expression can be, by the claims that it is evaluated over.

use std::ops::{Add, Mul};

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{claims::CLAIMS, patterns::Patterns};

/// How much there is in some claims.
#[derive(Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) values: u64,
    pub(super) text: u64,
}

/// The most steps that an expression may take. Each is a few nanoseconds at worst.
const BUDGET: u64 = 1 << 26;
/// The cost of a node, without the values that it goes through.
const NODE: u64 = 8;

/// The most steps that an expression takes: a polynomial in the size of the claims and the number of their values.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    constant: u64,
    per_value: u64,
    per_size: u64,
    per_value_and_size: u64,
}

impl Cost {
    pub(super) fn of(root: &IdedExpr, patterns: &Patterns) -> Self {
        let mut estimate = Estimate {
            patterns,
            outside: Extent::default(),
            inside: None,
            loops: Self {
                constant: 0,
                per_value: 0,
                per_size: 0,
                per_value_and_size: 0,
            },
        };
        estimate.visit(root);
        Self {
            constant: estimate
                .loops
                .constant
                .saturating_add(estimate.outside.constant),
            per_size: estimate
                .loops
                .per_size
                .saturating_add(estimate.outside.claims),
            ..estimate.loops
        }
    }

    /// Whether evaluating it over claims of this amount takes few enough steps.
    pub(super) fn is_affordable(self, claims: Amount) -> bool {
        self.steps(claims) <= BUDGET
    }

    fn steps(self, claims: Amount) -> u64 {
        let values = claims.values;
        let size = values.saturating_add(claims.text);
        [
            self.constant,
            self.per_value.saturating_mul(values),
            self.per_size.saturating_mul(size),
            self.per_value_and_size
                .saturating_mul(values)
                .saturating_mul(size),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// The size of a value, or the work of going through some.
#[derive(Clone, Copy, Default)]
struct Extent {
    constant: u64,
    /// In multiples of all claims, each time.
    claims: u64,
    /// In multiples of what a macro goes through, over all of its rounds together.
    members: u64,
}

impl Extent {
    const ONE: Self = Self {
        constant: 1,
        claims: 0,
        members: 0,
    };
}

impl Add for Extent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            constant: self.constant.saturating_add(other.constant),
            claims: self.claims.saturating_add(other.claims),
            members: self.members.saturating_add(other.members),
        }
    }
}

impl Mul<u64> for Extent {
    type Output = Self;

    fn mul(self, factor: u64) -> Self {
        Self {
            constant: self.constant.saturating_mul(factor),
            claims: self.claims.saturating_mul(factor),
            members: self.members.saturating_mul(factor),
        }
    }
}

struct Estimate<'a> {
    patterns: &'a Patterns,
    outside: Extent,
    inside: Option<Round<'a>>,
    loops: Cost,
}

/// One round of a macro.
struct Round<'a> {
    work: Extent,
    member: &'a str,
    accumulator: &'a str,
}

impl<'a> Estimate<'a> {
    /// Counts the work of a node, and returns the size of its value.
    fn visit(&mut self, node: &'a IdedExpr) -> Extent {
        let (work, size) = match &node.expr {
            Expr::Unspecified | Expr::Struct(_) => (Extent::default(), Extent::ONE),
            Expr::Literal(literal) => {
                let length = match literal {
                    LiteralValue::String(text) => text.inner().len(),
                    LiteralValue::Bytes(bytes) => bytes.inner().len(),
                    _ => 1,
                };
                let size = Extent::ONE * length.max(1) as u64;
                (Extent::default(), size)
            }
            Expr::Ident(name) => (Extent::default(), self.size_of(name)),
            Expr::Select(select) => (Extent::default(), self.visit(&select.operand)),
            Expr::List(list) => {
                let size = self.sum(&list.elements);
                (size, size)
            }
            Expr::Map(map) => {
                let mut size = Extent::ONE;
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        size = size + self.visit(&entry.key) + self.visit(&entry.value);
                    }
                }
                (size, size)
            }
            Expr::Call(call) => {
                let target = call.target.as_deref();
                let target = target.map_or(Extent::default(), |target| self.visit(target));
                let size = target + self.sum(&call.args);
                let work = size * self.patterns.states(&call.func_name).unwrap_or(1);
                match call.func_name.as_str() {
                    operators::INDEX | operators::CONDITIONAL => (Extent::default(), size),
                    operators::ADD | "string" | "bytes" | "dyn" => (work, size),
                    _ => (work, Extent::ONE),
                }
            }
            Expr::Comprehension(comprehension) => {
                let range = self.run(comprehension);
                (range, range)
            }
        };
        let work = work + Extent::ONE * NODE;
        let total = match &mut self.inside {
            Some(round) => &mut round.work,
            None => &mut self.outside,
        };
        *total = *total + work;
        size
    }

    fn sum(&mut self, nodes: &'a [IdedExpr]) -> Extent {
        nodes
            .iter()
            .fold(Extent::ONE, |size, node| size + self.visit(node))
    }

    /// A macro is not inside of another. Returns the size of what it goes through.
    fn run(&mut self, comprehension: &'a ComprehensionExpr) -> Extent {
        let range = self.visit(&comprehension.iter_range);
        self.inside = Some(Round {
            work: Extent::default(),
            member: &comprehension.iter_var,
            accumulator: &comprehension.accu_var,
        });
        for part in [
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ] {
            self.visit(part);
        }
        let Some(Round { work, .. }) = self.inside.take() else {
            return range;
        };
        // One round for each value: as many as the range has, and at most as many as there are claims.
        let loops = &mut self.loops;
        let add = |sum: &mut u64, left: u64, right: u64| {
            *sum = sum.saturating_add(left.saturating_mul(right));
        };
        add(&mut loops.constant, range.constant, work.constant);
        add(&mut loops.per_value, range.claims, work.constant);
        add(&mut loops.per_size, range.constant, work.claims);
        add(&mut loops.per_value_and_size, range.claims, work.claims);
        add(&mut loops.constant, range.constant, work.members);
        add(&mut loops.per_size, range.claims, work.members);
        range
    }

    fn size_of(&self, name: &str) -> Extent {
        let round = self.inside.as_ref();
        match round {
            Some(round) if round.member == name => Extent {
                members: 1,
                ..Extent::default()
            },
            // A list that grows is appended to in place.
            Some(round) if round.accumulator == name => Extent::ONE,
            _ if name == CLAIMS => Extent {
                claims: 1,
                ..Extent::default()
            },
            _ => Extent::ONE,
        }
    }
}
