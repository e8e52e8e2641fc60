use http::{Request, request, response};

use super::{
    authenticating::{Authenticating, State},
    rejection::Rejection,
    strategy::Strategy,
};

/// Two strategies for one request, for example a key of the gateway and a token of the user.
///
/// ```
/// use tower_identity::{
///     AuthLayer, HeaderInjection, Origin, UpstreamInject, strategy::Both,
/// };
///
/// let gateway = HeaderInjection::new("x-api-key", "7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let user = UpstreamInject::new("github")?;
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = AuthLayer::new(origin, Both(gateway, user));
/// # use tower::Layer;
/// # let _ = layer.layer(tower::service_fn(async |_: http::Request<()>| {
/// #     Ok::<_, tower::BoxError>(())
/// # }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The second strategy runs after the first one. If either refuses, the request is not sent. They must use different
/// headers (see [`Placement`](crate::Placement)), because the second one replaces a header of the first.
///
/// A response that rejects a credential does not say which one. So both strategies are asked, and the request is sent once
/// more if either of them can get another credential. A credential with more scope is obtained if only one of the two is
/// [of a kind](Strategy::can_widen_scope) that can have more.
#[derive(Clone, Copy, Debug)]
pub struct Both<S, T>(pub S, pub T);

impl<B, S, T> Strategy<B> for Both<S, T>
where
    B: Send + 'static,
    S: Strategy<B>,
    T: Strategy<B> + Clone + 'static,
{
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let (first, key) = self.0.authenticate(request).into_parts();
        let first = match first {
            State::Done => {
                let (second, other_key) = self.1.authenticate(request).into_parts();
                return Authenticating::from(second).with_key(other_key.or(key));
            }
            State::Refused(error) => return error.into(),
            State::Pending(first) => first,
        };
        let second = self.1.clone();
        Authenticating::pending(|request| async move {
            let mut request = first(request).await?;
            second.authenticate(&mut request).complete(request).await
        })
        .with_key(key)
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        let first = self.0.rejected(sent, response);
        either(first, self.1.rejected(sent, response))
    }

    fn rejected_in_body(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection {
        let first = self.0.rejected_in_body(sent, response, first_bytes);
        either(first, self.1.rejected_in_body(sent, response, first_bytes))
    }

    /// A challenge does not say which of two credentials needs more scope.
    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        match (self.0.can_widen_scope(), self.1.can_widen_scope()) {
            (true, false) => self.0.held_scopes(sent),
            (false, true) => self.1.held_scopes(sent),
            _ => None,
        }
    }

    fn can_widen_scope(&self) -> bool {
        self.0.can_widen_scope() || self.1.can_widen_scope()
    }

    fn name(&self) -> &'static str {
        "both"
    }
}

/// The answer that helps most.
fn either(first: Rejection, second: Rejection) -> Rejection {
    let order = [
        Rejection::AnotherCredential,
        Rejection::SaidInBody,
        Rejection::MoreScope,
        Rejection::NothingHelps,
    ];
    let mut order = order.into_iter();
    order
        .find(|answer| first == *answer || second == *answer)
        .unwrap_or(Rejection::NotRejected)
}
