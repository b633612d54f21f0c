//! The table `[allow]` of an entry: who may use an image, and where.
//!
//! These are rules for the scheduler's users. A program that runs as the user checks them, so they do not
//! protect the content of an image from being read: the permissions of its disk file do that.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::dirs::Person;

/// Each list that is not empty is a restriction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// These users may use the image; so may the members of [`Allow::groups`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// Members of these groups may use it; so may [`Allow::users`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Only jobs in these partitions may use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<String>,
    /// Only jobs of these accounts may use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<String>,
}

/// What Slurm knows about a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFacts {
    /// Its partition.
    pub partition: Option<String>,
    /// Its account.
    pub account: Option<String>,
}

/// Who may use an image that this person or job may not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Only other people.
    Person(Allow),
    /// Only other partitions.
    Partition(Vec<String>, Option<String>),
    /// Only other accounts.
    Account(Vec<String>, Option<String>),
}

impl Allow {
    /// Whether nothing is restricted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there are rules about the job.
    pub fn depends_on_job(&self) -> bool {
        !(self.partitions.is_empty() && self.accounts.is_empty())
    }

    /// Checks that `person` may use the image in some job. Root always may.
    ///
    /// # Errors
    /// Says who may use it.
    pub fn permits(&self, person: &Person) -> Result<(), Refusal> {
        let is_open = self.users.is_empty() && self.groups.is_empty();
        let is_member = || !self.groups.is_empty() && person.groups().iter().any(|group| self.groups.contains(group));
        match is_open || person.is_root || self.users.contains(&person.name) || is_member() {
            true => Ok(()),
            false => Err(Refusal::Person(self.clone())),
        }
    }

    /// Checks that this job may use the image.
    ///
    /// # Errors
    /// Says which jobs may use it.
    pub fn permits_job(&self, job: &JobFacts) -> Result<(), Refusal> {
        let fits = |list: &[String], value: &Option<String>| {
            list.is_empty() || value.as_ref().is_some_and(|value| list.contains(value))
        };
        if !fits(&self.partitions, &job.partition) {
            return Err(Refusal::Partition(self.partitions.clone(), job.partition.clone()));
        }
        if !fits(&self.accounts, &job.account) {
            return Err(Refusal::Account(self.accounts.clone(), job.account.clone()));
        }
        Ok(())
    }
}

/// The end of the sentence "image 'x' is …".
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, option, list, value) = match self {
            Self::Person(Allow { users, groups, .. }) => {
                f.write_str("for ")?;
                if !users.is_empty() {
                    write!(f, "the users {}", users.join(", "))?;
                }
                if !users.is_empty() && !groups.is_empty() {
                    f.write_str(" and ")?;
                }
                if !groups.is_empty() {
                    write!(f, "the groups {}", groups.join(", "))?;
                }
                return f.write_str(" only");
            }
            Self::Partition(list, value) => ("partition", "--partition", list, value),
            Self::Account(list, value) => ("account", "--account", list, value),
        };
        write!(f, "for jobs with the {what} {} only", list.join(", "))?;
        match value {
            Some(value) => write!(f, ", this one has '{value}': see {option}"),
            None => write!(f, ", this is a job without one: see {option}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(text: &str) -> Allow {
        toml::from_str(text).unwrap()
    }

    fn person(name: &str, groups: &[&str]) -> Person {
        Person { name: name.into(), is_root: name == "root", ..Person::default() }.in_groups(groups.iter().copied())
    }

    #[test]
    fn users_and_members_of_groups_are_let_in() {
        let rule = allow("users = ['ada']\ngroups = ['physics']");
        for (name, groups, may) in [
            ("ada", &["x"][..], true),
            ("bob", &["x", "physics"], true),
            ("bob", &["x"], false),
            ("root", &[], true),
            ("physics", &["ada"], false),
        ] {
            assert_eq!(rule.permits(&person(name, groups)).is_ok(), may, "{name} {groups:?}");
        }
        let text = rule.permits(&person("bob", &[])).unwrap_err().to_string();
        assert_eq!(text, "for the users ada and the groups physics only");
        allow("").permits(&person("bob", &[])).unwrap();
    }

    #[test]
    fn every_list_that_is_given_must_fit_the_job() {
        let rule = allow("partitions = ['gpu', 'long']\naccounts = ['p1']");
        let job = |partition: &str, account: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            rule.permits_job(&JobFacts { partition: some(partition), account: some(account) })
        };
        job("long", "p1").unwrap();
        let text = job("short", "p1").unwrap_err().to_string();
        assert_eq!(text, "for jobs with the partition gpu, long only, this one has 'short': see --partition");
        let text = job("gpu", "").unwrap_err().to_string();
        assert_eq!(text, "for jobs with the account p1 only, this is a job without one: see --account");
        job("", "").unwrap_err();
        assert!(rule.depends_on_job() && !allow("users = ['a']").depends_on_job());
    }

    #[test]
    fn a_misspelt_rule_is_an_error_and_not_an_open_door() {
        toml::from_str::<Allow>("user = ['ada']").unwrap_err();
    }
}
