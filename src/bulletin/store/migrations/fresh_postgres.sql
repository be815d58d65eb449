CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

CREATE TABLE tasks (
    guid TEXT COLLATE "C" NOT NULL,
    domain TEXT NOT NULL,
    state SMALLINT NOT NULL,
    cell_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    first_completed_at BIGINT NOT NULL,
    delivered_at BIGINT NOT NULL,
    failed BOOLEAN NOT NULL,
    rejection_count INTEGER NOT NULL,
    failure_reason TEXT NOT NULL,
    rejection_reason TEXT NOT NULL,
    result TEXT NOT NULL,
    definition BYTEA NOT NULL,
    CONSTRAINT pk_tasks PRIMARY KEY (guid)
)
 WITH (fillfactor = 50);

CREATE TABLE domains (
    domain TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    CONSTRAINT pk_domains PRIMARY KEY (domain)
);

CREATE TABLE outputs (
    guid TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    line_bytes BIGINT NOT NULL,
    lines BYTEA NOT NULL,
    CONSTRAINT pk_outputs PRIMARY KEY (guid)
);

CREATE INDEX ix_outputs_expires_at_line_bytes ON outputs (expires_at, line_bytes);

CREATE TABLE lease (
    id SMALLINT NOT NULL,
    owner TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    CONSTRAINT pk_lease PRIMARY KEY (id),
    CONSTRAINT ck_lease_single CHECK (id = 1)
);

INSERT INTO lease (id, owner, epoch, expires_at) VALUES (1, '', 0, 0);

CREATE TABLE configurations (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_configurations PRIMARY KEY (key)
);

INSERT INTO alembic_version (version_num) VALUES ('0001') RETURNING alembic_version.version_num;

-- Running upgrade 0001 -> 0002

ALTER TABLE tasks ADD COLUMN attempts TEXT DEFAULT '' NOT NULL;

ALTER TABLE lease ADD COLUMN session BIGINT DEFAULT 0 NOT NULL;

UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001';
