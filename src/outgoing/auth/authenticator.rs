use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, request, response};

use crate::{
    dpop::BoundKey,
    error::AuthError,
    hop_by_hop::NotableHeaders,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    strategy::{
        authenticating::{BoundTo, Continuation, PendingRequest, State},
        rejection::Rejection,
        strategy::Strategy,
        wider_scope::WiderScope,
    },
    telemetry::{self, AuthenticationSpan, Requests},
    trailers::remove_trailers_of_credentials,
};

use super::{
    proof_of_possession::{self, CallersProof, Nonce, PendingProof, Proofs, Proving},
    step_up::{Ceiling, Operation, StepUp},
};

/// Checks where requests go, has the strategy authenticate them, and counts them.
#[derive(Clone)]
pub(super) struct Authenticator<A> {
    guard: OriginGuard,
    strategy: A,
    requests: Requests,
    proofs: Proofs,
    step_up: Option<Arc<StepUp>>,
}

/// The outcome of one call of the strategy.
pub(super) enum Authentication<B> {
    Done,
    /// Done, with a proof.
    Bound(Bound),
    Refused(AuthError),
    Pending(Pending<B>),
}

/// The key that the token of a request is bound to, and the nonce that the proof has.
pub(super) struct Bound {
    pub(super) key: BoundKey,
    pub(super) nonce: Nonce,
}

/// The work that obtains a credential or its proof, before it has the request.
pub(super) struct Pending<B> {
    work: Work<B>,
    binding: Binding,
    observer: Observer,
}

enum Work<B> {
    Credential(Continuation<B>),
    Proof(PendingProof, Nonce),
}

/// A request whose credential or proof is being obtained.
pub(super) struct Obtaining<B> {
    step: Step<B>,
    binding: Binding,
    observer: Observer,
}

enum Step<B> {
    Credential(PendingRequest<B>),
    // It is boxed so that a credential that is being obtained takes less.
    Proof(Box<Proven<B>>),
}

/// A request whose proof is being signed elsewhere.
struct Proven<B> {
    /// Until the proof is there.
    request: Option<Request<B>>,
    proof: PendingProof,
    nonce: Option<Nonce>,
}

/// The parts from which the proof of a request is made.
struct Binding {
    key: Option<BoundKey>,
    callers_proof: Option<CallersProof>,
    proofs: Proofs,
}

/// A request with its credential.
pub(super) struct Obtained<B> {
    pub(super) request: Request<B>,
    pub(super) bound: Option<Bound>,
}

/// Reports the outcome of an authentication that does not end at once.
struct Observer {
    backend: Origin,
    strategy: &'static str,
    span: AuthenticationSpan,
    requests: Requests,
}

/// A request whose strategy is asked for more scope.
pub(super) struct Widened {
    operation: Operation,
    wider: WiderScope,
    ceiling: Arc<[String]>,
}

/// The outcome of a request that leaves, as it is counted.
const AUTHENTICATED: Result<(), AuthError> = Ok(());

impl<A> Authenticator<A> {
    pub(super) fn new(origin: Origin, strategy: A) -> Self {
        Self {
            guard: OriginGuard::new(origin),
            strategy,
            requests: Requests::default(),
            proofs: Proofs::default(),
            step_up: None,
        }
    }

    pub(super) fn step_up_to(&mut self, ceiling: Ceiling) {
        self.step_up = Some(Arc::new(StepUp::new(ceiling)));
    }

    /// Asks for the scope with which the operation of this request succeeded before.
    pub(super) fn recall<B>(&self, request: &mut Request<B>) -> Option<Operation> {
        let step_up = self.step_up.as_ref()?;
        let operation = step_up.operation(
            request.method(),
            request.uri(),
            request.headers(),
            request.extensions(),
        )?;
        let wider = step_up.recall(operation)?;
        wider.put_into(request.extensions_mut());
        Some(operation)
    }

    pub(super) fn forget(&self, operation: Operation) {
        if let Some(step_up) = &self.step_up {
            step_up.forget(operation);
        }
    }

    /// Asks for the scope that a response says is missing, with the next call of the strategy.
    pub(super) fn widen<B>(
        &self,
        sent: &mut request::Parts,
        response: &HeaderMap,
    ) -> Option<Widened>
    where
        A: Strategy<B>,
    {
        let step_up = self.step_up.as_ref()?;
        let operation =
            step_up.operation(&sent.method, &sent.uri, &sent.headers, &sent.extensions)?;
        let held = || self.strategy.held_scopes(sent);
        let (wider, ceiling) = step_up.widen(operation, sent, response, held)?;
        wider.put_into(&mut sent.extensions);
        Some(Widened {
            operation,
            wider,
            ceiling,
        })
    }

    /// Has the same operation ask for this scope at once.
    pub(super) fn remember(&self, widened: Widened) {
        if let Some(step_up) = &self.step_up {
            step_up.remember(widened.operation, widened.wider, widened.ceiling);
        }
    }

    /// The scope is for the strategy of this layer, and for no other.
    pub(super) fn hide_scope<B>(&self, request: &mut Request<B>) {
        if self.step_up.is_some() {
            request.extensions_mut().remove::<WiderScope>();
        }
    }

    pub(super) fn client_fixes_origin(mut self) -> Self {
        self.guard = self.guard.client_fixes_origin();
        self
    }

    pub(super) fn origin(&self) -> &Origin {
        self.guard.origin()
    }

    #[inline]
    pub(super) fn authenticate<B>(&self, request: &mut Request<B>) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        let backend = self.guard.origin();
        let strategy = || self.strategy.name();
        let notable = NotableHeaders::of(request.headers());
        if let Err(error) = self.guard.check(request, notable) {
            let span = AuthenticationSpan::new(backend, strategy);
            return Authentication::Refused(self.observer(strategy(), span).refused(error));
        }
        if notable.are_to_change() {
            return self.authenticate_changed(request, notable);
        }
        self.ask_strategy(request, false)
    }

    #[inline]
    fn ask_strategy<B>(
        &self,
        request: &mut Request<B>,
        announces_trailers: bool,
    ) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        let backend = self.guard.origin();
        let strategy = || self.strategy.name();
        let mut span = AuthenticationSpan::new(backend, strategy);
        let entered = span.enter();
        let (state, key) = self.strategy.authenticate(request).into_parts();
        drop(entered);
        match state {
            State::Done => {
                if let Some(key) = key {
                    return self.prove(key, request, self.observer(strategy(), span));
                }
                if announces_trailers {
                    remove_trailers_of_credentials(request.headers_mut());
                }
                span.end(&AUTHENTICATED);
                self.requests.count(backend, strategy, &AUTHENTICATED);
                Authentication::Done
            }
            State::Refused(error) => {
                Authentication::Refused(self.observer(strategy(), span).refused(error))
            }
            State::Pending(obtain) => Authentication::Pending(Pending {
                work: Work::Credential(obtain),
                binding: Binding {
                    key,
                    callers_proof: None,
                    proofs: self.proofs.clone(),
                },
                observer: self.observer(strategy(), span),
            }),
        }
    }

    /// Removes the headers of the caller's connection, and does not let the proof of the caller leave beside a token of the
    /// strategy.
    #[cold]
    fn authenticate_changed<B>(
        &self,
        request: &mut Request<B>,
        notable: NotableHeaders,
    ) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        let announces_trailers = notable.remove_hop_by_hop(request.headers_mut());
        let proof = CallersProof::on(request.headers());
        let mut authentication = self.ask_strategy(request, announces_trailers);
        match &mut authentication {
            Authentication::Done => proof.remove_beside_another_token(request.headers_mut()),
            Authentication::Pending(pending) => pending.binding.callers_proof = Some(proof),
            Authentication::Bound(_) | Authentication::Refused(_) => {}
        }
        authentication
    }

    /// Makes the proof for a request whose token is bound to the key.
    #[cold]
    fn prove<B>(
        &self,
        key: BoundKey,
        request: &mut Request<B>,
        mut observer: Observer,
    ) -> Authentication<B> {
        let proving = self.proofs.prove(self.guard.origin(), &key, request);
        let bound = match proving {
            Proving::NotNeeded => None,
            Proving::Made(proof, nonce) => {
                proof_of_possession::put_on(request.headers_mut(), proof);
                Some(Bound { key, nonce })
            }
            Proving::Refused(error) => return Authentication::Refused(observer.refused(error)),
            Proving::Pending(proof, nonce) => {
                return Authentication::Pending(Pending {
                    work: Work::Proof(proof, nonce),
                    binding: Binding {
                        key: Some(key),
                        callers_proof: None,
                        proofs: self.proofs.clone(),
                    },
                    observer,
                });
            }
        };
        remove_trailers_of_credentials(request.headers_mut());
        observer.end(&AUTHENTICATED);
        bound.map_or(Authentication::Done, Authentication::Bound)
    }

    /// Makes another proof for a request that was sent, with the nonce that the backend wants.
    pub(super) fn prove_again<B>(&self, key: BoundKey, sent: &mut Request<B>) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        tracing::debug!(method = %sent.method(), "the backend wants a nonce: sending the request with it");
        let strategy = || self.strategy.name();
        let span = AuthenticationSpan::new(self.guard.origin(), strategy);
        self.prove(key, sent, self.observer(strategy(), span))
    }

    pub(super) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    #[cold]
    fn observer(&self, strategy: &'static str, span: AuthenticationSpan) -> Observer {
        Observer {
            backend: self.guard.origin().clone(),
            strategy,
            span,
            requests: self.requests.clone(),
        }
    }

    /// Whether the response rejects the credential that the request was sent with, and what may help.
    pub(super) fn rejection<B>(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
    ) -> Rejection
    where
        A: Strategy<B>,
    {
        self.observe::<B>(sent, self.strategy.rejected(sent, response))
    }

    /// As [`rejection`](Self::rejection), once the first bytes of the response's body are there.
    pub(super) fn rejection_in_body<B>(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection
    where
        A: Strategy<B>,
    {
        let strategy = &self.strategy;
        self.observe::<B>(sent, strategy.rejected_in_body(sent, response, first_bytes))
    }

    fn observe<B>(&self, sent: &request::Parts, rejection: Rejection) -> Rejection
    where
        A: Strategy<B>,
    {
        if rejection == Rejection::AnotherCredential {
            tracing::debug!(method = %sent.method, "the credential was rejected: sending the request with a fresh one");
            telemetry::forced_refresh(self.strategy.name());
        }
        rejection
    }
}

impl<B> Pending<B> {
    pub(super) fn start(self, request: Request<B>) -> Obtaining<B> {
        Obtaining {
            step: match self.work {
                Work::Credential(obtain) => Step::Credential(obtain(request)),
                Work::Proof(proof, nonce) => Step::proof(request, proof, nonce),
            },
            binding: self.binding,
            observer: self.observer,
        }
    }
}

impl<B> Obtaining<B> {
    pub(super) fn proofs(&self) -> &Proofs {
        &self.binding.proofs
    }
}

impl<B> Future for Obtaining<B> {
    type Output = Result<Obtained<B>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            step,
            binding,
            observer,
        } = &mut *self;
        let entered = observer.span.enter();
        let polled = step.poll(binding, &observer.backend, cx);
        drop(entered);
        Poll::Ready(match ready!(polled) {
            Ok(mut obtained) => {
                remove_trailers_of_credentials(obtained.request.headers_mut());
                observer.end(&AUTHENTICATED);
                Ok(obtained)
            }
            Err(error) => Err(observer.refused(error)),
        })
    }
}

impl<B> Step<B> {
    fn proof(request: Request<B>, proof: PendingProof, nonce: Nonce) -> Self {
        Self::Proof(Box::new(Proven {
            request: Some(request),
            proof,
            nonce: Some(nonce),
        }))
    }

    fn poll(
        &mut self,
        binding: &mut Binding,
        backend: &Origin,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Obtained<B>, AuthError>> {
        loop {
            *self = match self {
                Self::Credential(request) => {
                    let mut request = ready!(request.as_mut().poll(cx))?;
                    let Some(key) = binding.key_for(&mut request) else {
                        let bound = None;
                        return Poll::Ready(Ok(Obtained { request, bound }));
                    };
                    match binding.proofs.prove(backend, &key, &request) {
                        Proving::NotNeeded => {
                            let bound = None;
                            return Poll::Ready(Ok(Obtained { request, bound }));
                        }
                        Proving::Made(proof, nonce) => {
                            proof_of_possession::put_on(request.headers_mut(), proof);
                            let bound = Some(Bound { key, nonce });
                            return Poll::Ready(Ok(Obtained { request, bound }));
                        }
                        Proving::Refused(error) => return Poll::Ready(Err(error)),
                        Proving::Pending(proof, nonce) => {
                            binding.key = Some(key);
                            Self::proof(request, proof, nonce)
                        }
                    }
                }
                Self::Proof(proven) => {
                    let proof = ready!(Pin::new(&mut proven.proof).poll(cx))?;
                    let Some(mut request) = proven.request.take() else {
                        return Poll::Pending;
                    };
                    proof_of_possession::put_on(request.headers_mut(), proof);
                    let bound = binding.key.take().zip(proven.nonce.take());
                    let bound = bound.map(|(key, nonce)| Bound { key, nonce });
                    return Poll::Ready(Ok(Obtained { request, bound }));
                }
            };
        }
    }
}

impl Binding {
    /// The key of a request that has its credential now: the one that a strategy within another left on it, or else the
    /// one that the strategy named before.
    fn key_for<B>(&mut self, request: &mut Request<B>) -> Option<BoundKey> {
        if let Some(proof) = &self.callers_proof {
            proof.remove_beside_another_token(request.headers_mut());
        }
        let left = request.extensions_mut().remove();
        left.map(|BoundTo(key)| key).or_else(|| self.key.take())
    }
}

impl Observer {
    fn refused(&mut self, error: AuthError) -> AuthError {
        let error = error.with_backend(self.backend.clone());
        telemetry::refused(self.strategy, &error);
        self.end(&Err(error.clone()));
        error
    }

    fn end(&mut self, outcome: &Result<(), AuthError>) {
        self.span.end(outcome);
        self.requests
            .count(&self.backend, || self.strategy, outcome);
    }
}
