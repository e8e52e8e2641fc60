use std::{collections::VecDeque, sync::PoisonError};

use crate::{identity::Identity, runtime::Mutex};

const MAX_USERS: usize = 64;

/// The newest identity of each user who opened a session, in the order in which they opened their last one.
#[derive(Default)]
pub(super) struct SessionUsers {
    newest: Mutex<VecDeque<Identity>>,
}

impl SessionUsers {
    /// Returns the user's newest identity, to be sent with an `initialize` that carries `identity`.
    ///
    /// The SDK replays the message that it saved at login, whose identity may be hours old.
    pub(super) fn open(&self, identity: &Identity) -> Identity {
        let mut users = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = users
            .iter()
            .position(|user| user.is_same_user(identity))
            .and_then(|at| users.remove(at));
        let newest = match seen {
            Some(seen) if seen.is_newer_than(identity) => seen,
            _ => identity.clone(),
        };
        if users.len() == MAX_USERS {
            users.pop_front();
        }
        users.push_back(newest.clone());
        drop(users);
        if newest.is_newer_than(identity) {
            tracing::debug!("an `initialize` carries an old identity: using the user's newest");
        }
        newest
    }

    /// Keeps the identity of any other message if its user opened a session.
    pub(super) fn follow(&self, identity: &Identity) {
        let mut users = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.iter_mut().find(|user| user.is_same_user(identity))
            && identity.is_newer_than(user)
        {
            *user = identity.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_who_opened_a_session_last_are_kept() {
        let users = SessionUsers::default();
        let identity = |n: usize| Identity::builder(format!("user-{n}")).build().unwrap();
        for n in 0..MAX_USERS * 2 {
            users.open(&identity(n));
        }
        users.follow(&identity(0));
        let newest = users.newest.into_inner().unwrap();
        assert_eq!(newest.len(), MAX_USERS);
        assert_eq!(newest[0].subject(), format!("user-{MAX_USERS}"));
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use std::sync::Arc;

    use shuttle::thread;

    use crate::shuttle_tests::{check, identity};

    use super::*;

    #[test]
    fn an_initialize_never_leaves_with_an_older_identity_than_one_that_was_seen() {
        check(|| {
            let users = Arc::new(SessionUsers::default());
            let at_log_in = identity("alice");
            users.open(&at_log_in);
            let seen_by_each = ["alice", "alice", "bob"].map(identity);
            let callers = seen_by_each.map(|seen| {
                let (users, at_log_in) = (Arc::clone(&users), at_log_in.clone());
                thread::spawn(move || {
                    users.follow(&seen);
                    let leaves = users.open(&at_log_in);
                    assert!(leaves.is_same_user(&at_log_in));
                    assert!(!seen.is_same_user(&leaves) || !seen.is_newer_than(&leaves));
                })
            });
            for caller in callers {
                caller.join().unwrap();
            }
        });
    }
}
