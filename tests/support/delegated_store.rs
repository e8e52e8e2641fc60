//! The methods that a store of a test hands on unchanged to the one that it wraps.

/// Writes the methods of `UpstreamTokenStore` by which tokens come and go, each handed on to the field.
macro_rules! delegate_to_store {
    ($field:ident) => {
        fn put<'a>(
            &'a self,
            owner: &'a tower_identity::upstream::TokenOwner,
            provider: &'a str,
            tokens: &'a tower_identity::upstream::ProviderTokens,
        ) -> tower_identity::upstream::UpstreamFuture<'a, ()> {
            self.$field.put(owner, provider, tokens)
        }

        fn remove<'a>(
            &'a self,
            owner: &'a tower_identity::upstream::TokenOwner,
        ) -> tower_identity::upstream::UpstreamFuture<'a, ()> {
            self.$field.remove(owner)
        }

        fn remove_provider<'a>(
            &'a self,
            owner: &'a tower_identity::upstream::TokenOwner,
            provider: &'a str,
        ) -> tower_identity::upstream::UpstreamFuture<'a, ()> {
            self.$field.remove_provider(owner, provider)
        }

        fn use_once<'a>(
            &'a self,
            id: [u8; 32],
            attempt: u128,
            time: std::time::Duration,
        ) -> tower_identity::upstream::UpstreamFuture<'a, bool> {
            self.$field.use_once(id, attempt, time)
        }

        fn remove_user<'a>(
            &'a self,
            user: &'a tower_identity::upstream::TokenOwner,
        ) -> tower_identity::upstream::UpstreamFuture<'a, ()> {
            self.$field.remove_user(user)
        }

        fn providers<'a>(
            &'a self,
            user: &'a tower_identity::upstream::TokenOwner,
        ) -> tower_identity::upstream::UpstreamFuture<'a, std::collections::BTreeSet<String>> {
            self.$field.providers(user)
        }
    };
}

pub(crate) use delegate_to_store;
