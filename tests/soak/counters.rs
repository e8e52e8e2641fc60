//! What has to add up when all is done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{
    backends::Backend, issuers::Role, passage::KINDS, support::identity_provider::OPENID,
    world::World,
};

impl World {
    /// All that was counted in one place was counted in the other.
    pub(crate) fn check_counters(&self) {
        println!("\n== what adds up");
        let ledger = &self.ledger;
        let number = |what| ledger.number(what);
        let ended = number("call: answered")
            + number("call: answered before it was given up")
            + number("call: given up");
        ledger.check(
            "calls made, and answered or given up",
            number("call: made"),
            ended,
        );
        for backend in Backend::ALL {
            self.check_requests(backend);
        }
        self.check_look_ups();
        self.check_issuers();
        let teardowns = self
            .gateways
            .iter()
            .map(|gateway| read(&gateway.inner.teardowns))
            .sum();
        let fallbacks = self.sums.of(&["tower_identity_fallbacks_total"]);
        ledger.check(
            "fallbacks, and requests without an identity",
            fallbacks,
            teardowns,
        );
    }

    fn check_requests(&self, backend: Backend) {
        let passage = &self.passages[backend.index()];
        let origin = format!(
            "backend={};",
            self.backends[backend.index()].server.origin()
        );
        let counted = |outcome: &str| {
            let outcome = format!("outcome={outcome};");
            self.sums
                .of(&["tower_identity_requests_total", &origin, &outcome])
        };
        let check = |what: &str, left, right| {
            self.ledger
                .check(&format!("{backend:?}: {what}"), left, right);
        };
        check("requests ok, and sent", counted("ok"), read(&passage.left));
        for (index, (_, kind)) in KINDS.iter().enumerate() {
            let refused = read(&passage.refused[index]);
            if refused + counted(kind) > 0 {
                let what = format!("requests {kind}, and errors seen");
                check(&what, counted(kind), refused);
            }
        }
        check(
            "requests begun, and sent, refused or given up",
            read(&passage.entered),
            read(&passage.left) + passage.refused() + read(&passage.given_up),
        );
    }

    fn check_look_ups(&self) {
        let ledger = &self.ledger;
        let asked: u64 = self
            .passages
            .iter()
            .map(|passage| read(&passage.had_subject))
            .sum();
        let in_vain = self
            .passages
            .iter()
            .map(|passage| read(&passage.had_expired_subject));
        let look_ups = "tower_identity_cache_lookups_total";
        let counted = self.sums.in_strategies(&[look_ups]);
        for state in ["hit", "miss", "refresh", "coalesced", "refused"] {
            let state = format!("cache={state};");
            let counted = self.sums.in_strategies(&[look_ups, &state]);
            println!("      {counted:>9} {state}");
        }
        ledger.check(
            "look-ups, and calls that needed one",
            counted,
            asked - in_vain.sum::<u64>(),
        );
        let calls = |role: Role| read(&self.asked[&role].calls);
        let others = calls(Role::Exchange) + calls(Role::Sts);
        let assertions = calls(Role::IdentityProvider);
        // An assertion that is kept saves the first of the two calls of a fetch.
        let across = assertions + calls(Role::AuthorizationServer);
        let upstream: u64 = self
            .gateways
            .iter()
            .map(|gateway| gateway.inner.refreshes.count())
            .sum();
        let keys = self.realm.keys().fetches(OPENID) as u64;
        let fetches = self.sums.of(&["tower_identity_refresh_duration_seconds"]);
        ledger.check_at_most(
            "calls for exchanges, assertions and roles, refreshes and keys, and fetches of the caches",
            others + assertions + upstream + keys,
            fetches,
        );
        ledger.check_at_most(
            "fetches of the caches, and these calls and those for tokens of an assertion",
            fetches,
            others + across + upstream + keys,
        );
    }

    fn check_issuers(&self) {
        let ledger = &self.ledger;
        let calls = |role| read(&self.asked[&role].calls);
        let upstream = self
            .gateways
            .iter()
            .map(|gateway| gateway.inner.refreshes.count())
            .sum();
        ledger.check_at_most(
            "refreshes asked for, and fetched by the cache",
            calls(Role::Hub),
            upstream,
        );
        for issuer in &self.issuers {
            let (role, asked) = (issuer.role, &self.asked[&issuer.role]);
            let unanswered = read(&asked.calls) - read(&asked.answers);
            let check = |what: &str, left, right| {
                ledger.check_at_most(&format!("{role:?}: {what}"), left, right);
            };
            check(
                "answers, and calls that arrived",
                read(&asked.answers),
                issuer.arrived(),
            );
            check(
                "calls that arrived, and made",
                issuer.arrived(),
                read(&asked.calls),
            );
            check(
                "grants received, and granted",
                read(&asked.grants),
                issuer.granted(),
            );
            check(
                "granted, and received or unanswered",
                issuer.granted(),
                read(&asked.grants) + unanswered,
            );
            println!("      {role:?} refused {}", issuer.refused());
        }
        println!("      {} calls for keys", read(&self.asked_for_keys.calls));
    }
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}
