/// Says how the hash of a request's body is signed for AWS (SigV4).
///
/// Needs the feature `aws-sts`.
///
/// | service, by its signing name | default |
/// | --- | --- |
/// | `aoss`, `glacier`, `s3`, `s3-object-lambda`, `s3-outposts`, `s3express` | [`Header`](Self::Header) |
/// | `vpc-lattice-svcs` | [`Unsigned`](Self::Unsigned) |
/// | all others | [`Signed`](Self::Signed) |
///
/// [`AwsStsBuilder::payload_hash`](crate::strategy::AwsStsBuilder::payload_hash) sets another. For example, an upload to S3
/// that is too large to be read into memory can be sent without a signed hash:
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let sts_client = Client::builder(TokioExecutor::new())
/// #     .build_http::<Full<Bytes>>();
/// use tower_identity::{AwsSts, strategy::PayloadHash};
///
/// let strategy = AwsSts::builder("eu-west-1", sts_client)
///     .service("s3")
///     .payload_hash(PayloadHash::Unsigned)
///     .fallback_role("arn:aws:iam::123456789012:role/Uploader")
///     .build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayloadHash {
    /// The SHA-256 of the body is part of what is signed, and is not sent.
    Signed,
    /// The SHA-256 of the body is part of what is signed, and is sent as the signed header `x-amz-content-sha256`.
    Header,
    /// The body is not signed. The signed header `x-amz-content-sha256` says `UNSIGNED-PAYLOAD`.
    ///
    /// The body is not read to be signed: it may have any length, and is sent as it arrives.
    ///
    /// # Security
    ///
    /// The signature does not protect the body. TLS does, up to where it ends.
    Unsigned,
}

impl PayloadHash {
    /// The services that are known to want another than the default: their documentation, and the AWS SDKs.
    pub(super) fn of_service(service: &str) -> Self {
        match service {
            "vpc-lattice-svcs" => Self::Unsigned,
            "aoss" | "glacier" => Self::Header,
            service if is_s3(service) => Self::Header,
            _ => Self::Signed,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Header => "header",
            Self::Unsigned => "unsigned",
        }
    }
}

/// The services whose paths are signed as they are, neither encoded twice nor normalized.
pub(super) fn is_s3(service: &str) -> bool {
    matches!(
        service,
        "s3" | "s3-object-lambda" | "s3-outposts" | "s3express"
    )
}
