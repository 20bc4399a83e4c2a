"""What can go wrong, as one tree.

PixelisError
├── UserError             the reader must change something: one clear line, exit status 2
│   ├── ConfigError       a key or a value of the configuration
│   ├── MediaError        a picture or clip that cannot be read
│   ├── DataError         a data set that cannot be read, or what is asked of it
│   ├── ModelError        a model directory without what it needs
│   └── RunFolderError    a run folder of another version, or in use
├── ContractError         a value that breaks a law of the house (a rollout without log-probs, say)
├── ReplayError           the log
│   ├── LogDamaged        a frame of a sealed segment does not match its hash
│   ├── LogLocked         another writer holds the log
│   └── DiskFull          no room for a write; nothing of it is kept, and it may be tried again
├── WeightsError          received weights do not match their digest, or an engine refused them
├── ActorDied             the process behind a handle ended before it answered
└── Stopped               someone asked for a clean stop

Everything else is a bug, propagates and stops the run.
"""

from __future__ import annotations


class PixelisError(Exception):
    """Root of every error that this project raises on purpose."""


class UserError(PixelisError):
    """The reader must change something. Printed as one line; the command exits with status 2."""


class ConfigError(UserError):
    """A key or a value of the configuration."""


class MediaError(UserError):
    """A picture or a clip that cannot be read."""


class DataError(UserError):
    """A data set that cannot be read, or a request that it cannot meet."""


class ModelError(UserError):
    """A model directory that lacks what it needs."""


class RunFolderError(UserError):
    """A run folder of another version, or one in use."""


class ContractError(PixelisError):
    """A value breaks a law of the house."""


class ReplayError(PixelisError):
    """The replay log."""


class LogDamaged(ReplayError):
    """A frame does not match its hash, or a frame is missing."""


class LogLocked(ReplayError):
    """Another writer holds the log."""


class DiskFull(ReplayError):
    """No room for a write: nothing of it is kept, and it may be tried again when there is."""


class WeightsError(PixelisError):
    """Weights do not match their digest, or an engine did not take them."""


class ActorDied(PixelisError):
    """The process behind a handle ended before it answered."""


class Stopped(PixelisError):
    """Someone asked for a clean stop."""
