-- A file of `cutline characterize`; docs/characterize.md describes it.
-- Times are nanoseconds, sizes bytes; NULL is what a cell has not, or a machine does not say.
CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A process that measured.
CREATE TABLE session (
    id              INTEGER PRIMARY KEY,
    started_unix_ns INTEGER NOT NULL,
    cutline_version TEXT NOT NULL,
    hardware        TEXT NOT NULL,
    cores           INTEGER NOT NULL,
    system          TEXT NOT NULL,
    governor        TEXT,
    seed            INTEGER NOT NULL,
    grid            TEXT NOT NULL
);

CREATE TABLE cell (
    id             TEXT PRIMARY KEY,
    network        TEXT NOT NULL,
    network_sha256 TEXT NOT NULL,
    precision      TEXT NOT NULL,
    input          TEXT NOT NULL,
    height         INTEGER,
    width          INTEGER,
    batch          INTEGER NOT NULL,
    threads        INTEGER NOT NULL,
    engine         TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    picture        TEXT,
    picture_sha256 TEXT,
    preprocess     TEXT,
    filter         TEXT,
    upload         TEXT,
    jpeg_quality   INTEGER,
    link           TEXT,
    agent          TEXT NOT NULL,
    hardware       TEXT NOT NULL
) WITHOUT ROWID;

-- A few runs of a cell in a row.
CREATE TABLE turn (
    cell                     TEXT NOT NULL REFERENCES cell,
    number                   INTEGER NOT NULL,
    session                  INTEGER NOT NULL REFERENCES session,
    ended_unix_ns            INTEGER NOT NULL,
    spent_ns                 INTEGER NOT NULL,
    frequency_khz            INTEGER,
    temperature_millicelsius INTEGER,
    load_permille            INTEGER,
    PRIMARY KEY (cell, number)
) WITHOUT ROWID;

CREATE TABLE run (
    cell         TEXT NOT NULL,
    turn         INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    total_ns     INTEGER NOT NULL,
    decode_ns    INTEGER,
    resize_ns    INTEGER,
    encode_ns    INTEGER,
    transfer_ns  INTEGER,
    finish_ns    INTEGER,
    inference_ns INTEGER,
    PRIMARY KEY (cell, turn, number),
    FOREIGN KEY (cell, turn) REFERENCES turn
) WITHOUT ROWID;

-- A cell that is finished: `known`, `limit` or `failed`.
CREATE TABLE result (
    cell             TEXT PRIMARY KEY REFERENCES cell,
    state            TEXT NOT NULL,
    median_ns        INTEGER,
    low_ns           INTEGER,
    high_ns          INTEGER,
    p90_ns           INTEGER,
    runs             INTEGER NOT NULL,
    turns            INTEGER NOT NULL,
    decode_ns        INTEGER,
    resize_ns        INTEGER,
    encode_ns        INTEGER,
    transfer_ns      INTEGER,
    finish_ns        INTEGER,
    inference_ns     INTEGER,
    upload_bytes     INTEGER,
    download_bytes   INTEGER,
    finished_unix_ns INTEGER NOT NULL,
    error            TEXT
) WITHOUT ROWID;
