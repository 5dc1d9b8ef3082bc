//! `cutline engine install onnxruntime`: puts the engine's library into its folder.

use std::path::PathBuf;

use thiserror::Error;

/// Why an engine was not installed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// Nothing of that name is installed by this program.
    #[error("`{0}` is not an engine that is installed; `onnxruntime` is")]
    Unknown(String),
}

/// Installs an engine and returns the path of its library. Says what it does, line by line.
pub fn install(name: &str, _say: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
    Err(InstallError::Unknown(name.to_owned()))
}
