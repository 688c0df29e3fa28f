//! Which errors a repetition of the run cannot mend: what refused the run stays as it is until somebody changes settings,
//! arguments or rows. All else, such as a service that does not answer or a lease that is lost, may be gone by the next
//! try. Every kind of error is listed, so that a new one has to be put on one side.

use super::RefreshError;
use crate::athena::QueryError;
use crate::build::BuildError;
use crate::import::{ImportError, TakeoverError};
use crate::input::InputError;
use crate::parts::PartsError;
use crate::plan::PlanError;
use crate::source::SourceError;
use crate::web::WebError;
use tidemark_runtime::state::StateError;

impl RefreshError {
    /// Whether the same run, tried again, would end the same; of several sitemaps, whether each that failed would.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Name(_)
            | Self::Sitemap { .. }
            | Self::Several { .. }
            | Self::Site(_)
            | Self::OnHold { .. }
            | Self::Manifest { .. }
            | Self::Parameter(_)
            | Self::Sql { .. }
            | Self::NoParts { .. }
            | Self::Rollback(_) => true,
            Self::Object { .. } | Self::Place(_) | Self::Moves(_) => false,
            Self::Some { failed, .. } => failed.iter().all(|(_, error)| error.is_final()),
            Self::State(error) => matches!(error, StateError::Corrupt { .. }),
            Self::Input(error) => of_input(error),
            Self::Parts(error) => of_parts(error),
            Self::Build(error) => of_build(error),
            Self::Takeover(error) => of_takeover(error),
            Self::Plan(error) => of_plan(error),
        }
    }
}

impl ImportError {
    /// Whether the same import, tried again, would end the same.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::TooMany { .. } | Self::Empty(_) => true,
            Self::Status { .. } | Self::Io { .. } | Self::Compare(_) => false,
            Self::Web(error) => matches!(error, WebError::Address(_)),
            Self::Build(error) => of_build(error),
        }
    }
}

/// A query that failed may do better the next time, though Athena does not always say so.
fn of_input(error: &InputError) -> bool {
    matches!(error, InputError::Query(QueryError::Columns(_)))
}

fn of_parts(error: &PartsError) -> bool {
    match error {
        PartsError::Site(_) | PartsError::Versions | PartsError::Misplaced { .. } => true,
        PartsError::Place(_)
        | PartsError::Object { .. }
        | PartsError::Start { .. }
        | PartsError::Part { .. }
        | PartsError::TooSlow { .. } => false,
        PartsError::Input(error) => of_input(error),
        PartsError::Build(error) => of_build(error),
    }
}

fn of_build(error: &BuildError) -> bool {
    match error {
        BuildError::Empty(..)
        | BuildError::Drop(..)
        | BuildError::OtherSite { .. }
        | BuildError::OtherKey { .. }
        | BuildError::Versions
        | BuildError::Hosts(_)
        | BuildError::Level(_) => true,
        BuildError::OutOfOrder | BuildError::Sort(_) | BuildError::Io { .. } => false,
        // A file that breaks off may have been cut on its way here.
        BuildError::Source(error) => matches!(**error, SourceError::Format { .. } | SourceError::Header { .. }),
    }
}

fn of_takeover(error: &TakeoverError) -> bool {
    match error {
        TakeoverError::Import(error) => error.is_final(),
        TakeoverError::Lists(_)
        | TakeoverError::Committed { .. }
        | TakeoverError::Interrupted(_)
        | TakeoverError::NothingKept(_)
        | TakeoverError::Unnamed { .. }
        | TakeoverError::IndexTaken(_) => true,
        // A cache may still have the old one.
        TakeoverError::IndexDiffers { .. } => false,
    }
}

fn of_plan(error: &PlanError) -> bool {
    match error {
        PlanError::Missing { .. } | PlanError::Corrupt { .. } | PlanError::Void { .. } | PlanError::Imported(_) => true,
        PlanError::NotWhole(_) | PlanError::Compare { .. } => false,
        PlanError::Rows(error) => of_input(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::athena::ParameterError;
    use crate::guard::Drop;
    use crate::publish::PlaceError;
    use crate::rollback::RollbackError;
    use crate::site::SiteError;

    fn text() -> String {
        "shop".to_owned()
    }

    fn dropped() -> RefreshError {
        BuildError::Drop(vec![Drop { kind: None, before: 10, after: 1, percent_max: 50 }], Box::default()).into()
    }

    fn unreachable() -> RefreshError {
        InputError::Query(QueryError::Service { operation: "StartQueryExecution", message: text() }).into()
    }

    #[test]
    fn what_somebody_has_to_change_is_final() {
        let missing = SourceError::Header { path: "pages.csv".into(), problem: "has no column loc".to_owned() };
        let refusals: [RefreshError; 14] = [
            dropped(),
            BuildError::Empty(Box::default()).into(),
            BuildError::Source(Box::new(missing)).into(),
            RefreshError::Missing { bucket: text(), key: "sites/shop.toml".to_owned() },
            RefreshError::OnHold { site: text(), by: "rollback-1".to_owned() },
            RefreshError::Name("a/b".to_owned()),
            RefreshError::Sitemap { site: text(), sitemap: "news".to_owned(), known: Vec::new() },
            RefreshError::Several { site: text(), known: Vec::new() },
            SiteError::Parse { name: text(), message: "line 1".to_owned() }.into(),
            ParameterError::Undeclared("since".to_owned()).into(),
            RefreshError::Sql { file: "sites/shop.sql".to_owned(), problem: "holds no query".to_owned() },
            PlanError::Void { id: "p".to_owned(), what: "another run has committed since".to_owned() }.into(),
            InputError::Query(QueryError::Columns("no loc".to_owned())).into(),
            RollbackError::NoPrevious(text()).into(),
        ];
        for error in refusals {
            assert!(error.is_final(), "{error}");
        }
    }

    #[test]
    fn what_may_be_gone_by_the_next_try_is_not() {
        let faults: [RefreshError; 7] = [
            unreachable(),
            StateError::Conflict { key: text() }.into(),
            StateError::Busy { key: text(), holder: "another".to_owned(), remaining_ms: 1 }.into(),
            StateError::Storage { key: text(), operation: "GetObject", message: "503".to_owned() }.into(),
            PlaceError { operation: "writing", file: text(), message: "503".to_owned() }.into(),
            PlanError::NotWhole(text()).into(),
            RefreshError::Object { operation: "reading", bucket: text(), key: text(), message: "503".to_owned() },
        ];
        for error in faults {
            assert!(!error.is_final(), "{error}");
        }
    }

    #[test]
    fn several_sitemaps_are_given_up_only_where_each_failure_is_final() {
        let some = |failed: Vec<RefreshError>| RefreshError::Some {
            failed: failed.into_iter().map(|error| (text(), error)).collect(),
            done: Vec::new(),
        };
        assert!(some(vec![dropped(), dropped()]).is_final());
        assert!(!some(vec![dropped(), unreachable()]).is_final());
    }
}
