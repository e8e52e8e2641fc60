use std::sync::Arc;

/// 512 with the slashes around it.
const MAX_PATH: usize = 510;
const MAX_NAME: usize = 64;
const MAX_POLICY_NAME: usize = 128;

/// The ARN of an IAM role: `arn:aws:iam::123456789012:role/path/Name`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RoleArn(Arc<str>);

impl RoleArn {
    /// The error is a sentence whose subject is the text, which it does not repeat.
    pub(super) fn parse(arn: &str) -> Result<Self, String> {
        match fault(arn) {
            None => Ok(Self(arn.into())),
            Some(fault) => Err(format!(
                "is not the ARN of an IAM role, such as `arn:aws:iam::123456789012:role/Admin`: {fault}"
            )),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the fault of an ARN, if it has one (IAM User Guide, "IAM identifiers").
fn fault(arn: &str) -> Option<&'static str> {
    let mut parts = arn.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let (scheme, partition, service, region, account, resource) =
        (next(), next(), next(), next(), next(), next());
    if scheme != "arn" {
        return Some("it does not begin with `arn:`");
    }
    if !is_partition(partition) {
        return Some("its partition is not `aws`, `aws-cn`, `aws-us-gov` or the like");
    }
    if service != "iam" {
        return Some("its service is not `iam`");
    }
    if !region.is_empty() {
        return Some("it has a region, and roles have none");
    }
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("its account is not 12 digits");
    }
    let Some(role) = resource.strip_prefix("role/") else {
        return Some("its resource is not a `role/`");
    };
    let (path, name) = role.rsplit_once('/').unwrap_or(("", role));
    if role.starts_with('/')
        || path.len() > MAX_PATH
        || !path.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Some("the path of the role cannot be one");
    }
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name_byte) {
        return Some("the name of the role is not 1 to 64 characters of `A-Za-z0-9_+=,.@-`");
    }
    None
}

/// Whether it is the ARN of a policy, one of AWS's or one of an account's.
pub(super) fn is_policy_arn(arn: &str) -> bool {
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else {
        return false;
    };
    let Some(policy) = resource.strip_prefix("policy/") else {
        return false;
    };
    let (path, name) = policy.rsplit_once('/').unwrap_or(("", policy));
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    is_partition(partition)
        && (is_account || *account == "aws")
        && !policy.starts_with('/')
        && path.len() <= MAX_PATH
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && (1..=MAX_POLICY_NAME).contains(&name.len())
        && name.bytes().all(is_name_byte)
}

fn is_partition(partition: &str) -> bool {
    partition.split('-').all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'))
    }) && partition.split('-').next() == Some("aws")
}

/// Returns `true` if the names of roles and sessions may have this byte.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)
}
