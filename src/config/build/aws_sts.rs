use std::time::Duration;

use crate::{
    config::{
        backend::{AwsStsConfig, RoleMappingConfig},
        error::with_causes,
    },
    strategy::{
        aws_sts::{AwsSts, builder::AwsStsBuilder, role_mapper::RoleMapping},
        subject::Subject,
    },
};

use super::block::Block;

impl<B> Block<'_, B> {
    pub(super) fn aws_sts(&mut self, config: &AwsStsConfig) -> Option<AwsSts> {
        self.need("region", &config.region);
        if config.role_mappings.is_empty() && config.fallback_role_arn.is_none() {
            self.fault(
                "roleMappings",
                "is missing; give it, or `fallbackRoleArn`, or nobody could have a role",
            );
        }
        let mappings: Vec<_> = config
            .role_mappings
            .iter()
            .enumerate()
            .map(|(index, mapping)| self.role_mapping(index, mapping))
            .collect();
        if !self.faults.is_empty() {
            self.find_aws_sts_faults(config);
            return None;
        }
        let mut strategy = with_settings(self.resources.aws_sts(&config.region), config);
        for mapping in mappings {
            strategy = strategy.role_mapping(mapping?);
        }
        match strategy.build() {
            Ok(strategy) => Some(strategy),
            Err(error) => {
                self.find_aws_sts_faults(config);
                if self.faults.is_empty() {
                    self.fault("", with_causes(&error));
                }
                None
            }
        }
    }

    fn role_mapping(&mut self, index: usize, mapping: &RoleMappingConfig) -> Option<RoleMapping> {
        let name = format!("roleMappings[{index}]");
        let built = match (&mapping.claim, &mapping.matcher) {
            (Some(claim), None) => RoleMapping::claim(claim, &mapping.role_arn),
            (None, Some(matcher)) => RoleMapping::matcher(matcher, &mapping.role_arn),
            (claim, _) => {
                let count = if claim.is_some() { "both" } else { "neither" };
                self.fault(
                    &name,
                    format!("has {count} of `claim` and `matcher`, and needs one"),
                );
                return None;
            }
        };
        Some(match mapping.priority {
            Some(priority) => built.priority(priority),
            None => built,
        })
    }

    /// Tries each member in a strategy whose others are right.
    fn find_aws_sts_faults(&mut self, config: &AwsStsConfig) {
        const REGION: &str = "eu-west-1";
        const ROLE: &str = "arn:aws:iam::123456789012:role/Any";

        let resources = self.resources;
        let right = || resources.aws_sts(REGION).fallback_role(ROLE);
        if !config.region.is_empty() {
            let strategy = resources.aws_sts(&config.region).fallback_role(ROLE);
            self.check("region", strategy.build());
        }
        if let Some(arn) = &config.fallback_role_arn {
            self.check("fallbackRoleArn", right().fallback_role(arn).build());
        }
        for (index, mapping) in config.role_mappings.iter().enumerate() {
            let path = |member| format!("roleMappings[{index}].{member}");
            let role = RoleMapping::claim("any", &mapping.role_arn);
            if self.need(&path("roleArn"), &mapping.role_arn).is_some() {
                self.check(&path("roleArn"), right().role_mapping(role).build());
            }
            if let Some(claim) = &mapping.claim {
                let mapping = RoleMapping::claim(claim, ROLE);
                self.check(&path("claim"), right().role_mapping(mapping).build());
            }
            if let Some(matcher) = &mapping.matcher {
                let mapping = RoleMapping::matcher(matcher, ROLE);
                self.check(&path("matcher"), right().role_mapping(mapping).build());
            }
        }
        let none = AwsStsConfig::default;
        let alone = [
            (
                "service",
                AwsStsConfig {
                    service: config.service.clone(),
                    ..none()
                },
            ),
            (
                "roleClaim",
                AwsStsConfig {
                    role_claim: config.role_claim.clone(),
                    ..none()
                },
            ),
            (
                "sessionDuration",
                AwsStsConfig {
                    session_duration: config.session_duration,
                    ..none()
                },
            ),
            (
                "sessionNameClaim",
                AwsStsConfig {
                    session_name_claim: config.session_name_claim.clone(),
                    ..none()
                },
            ),
            (
                "subjectProviderName",
                AwsStsConfig {
                    subject_provider_name: config.subject_provider_name.clone(),
                    ..none()
                },
            ),
        ];
        for (name, config) in &alone {
            self.check(name, with_settings(right(), config).build());
        }
    }
}

/// All settings but the region and the role mappings.
fn with_settings(mut strategy: AwsStsBuilder, config: &AwsStsConfig) -> AwsStsBuilder {
    if let Some(service) = &config.service {
        strategy = strategy.service(service);
    }
    if let Some(role) = &config.fallback_role_arn {
        strategy = strategy.fallback_role(role);
    }
    if let Some(claim) = &config.role_claim {
        strategy = strategy.role_claim(claim);
    }
    if let Some(claim) = &config.session_name_claim {
        strategy = strategy.session_name_claim(claim);
    }
    if let Some(seconds) = config.session_duration {
        // Less than none is as wrong as none.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        strategy = strategy.session_duration(Duration::from_secs(seconds));
    }
    if let Some(provider) = &config.subject_provider_name {
        strategy = strategy.subject(Subject::upstream(provider));
    }
    strategy
}
