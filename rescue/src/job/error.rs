//! Why a job is not done: refused, or failed.

/// Why a job cannot be planned. Each text holds the whole chain of reasons, the outermost first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was touched, and must not be: the reason, and the way out where there is one.
    #[error("{0}")]
    Refused(String),
    /// Something could not be read.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Returns [`Error::Failed`] for something attempted, with the reasons below it.
    #[must_use]
    pub fn failed(attempt: &str, source: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{attempt}: {}", chain(source)))
    }
}

/// Writes an error and everything below it in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        let line = source.to_string();
        // Some libraries repeat the source in their own text.
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        below = source.source();
    }
    text
}

impl From<crate::block::Error> for Error {
    fn from(error: crate::block::Error) -> Self {
        match error {
            crate::block::Error::Refused { .. } => Self::Refused(error.to_string()),
            other => Self::Failed(chain(&other)),
        }
    }
}

impl From<super::stores::Error> for Error {
    fn from(error: super::stores::Error) -> Self {
        match error {
            super::stores::Error::Refused(reason) => Self::Refused(reason),
            other => Self::failed("the store", &other),
        }
    }
}
