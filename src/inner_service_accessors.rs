macro_rules! inner_service_accessors {
    ($service:ident $(, $parameter:ident)*) => {
        impl<S $(, $parameter)*> $service<S $(, $parameter)*> {
            /// The inner service.
            pub fn get_ref(&self) -> &S {
                &self.inner
            }

            /// The inner service, mutably.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.inner
            }

            /// Returns the inner service and drops this layer.
            pub fn into_inner(self) -> S {
                self.inner
            }
        }
    };
}

pub(crate) use inner_service_accessors;
