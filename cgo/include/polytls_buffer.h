/*
 * The two ciphertext buffers of struct polytls_conn, as every provider uses
 * them. Ownership is that of polytls_native.h: both are malloc memory of the
 * connection; the caller of a step may swap `out` for another one between two
 * steps.
 */
#ifndef POLYTLS_BUFFER_H
#define POLYTLS_BUFFER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "polytls_native.h"

/* Output that a connection starts with, for callers that set no limit. */
#define POLYTLS_DEFAULT_OUT_LIMIT (4 * (size_t)POLYTLS_MAX_RECORD)

/* The tail of `out` that only short messages may use, so that an alert always
 * finds room behind a flight that has filled the rest. */
#define POLYTLS_OUT_RESERVE 512
#define POLYTLS_OUT_SHORT 256

/* Returns how many bytes `out` may hold when a message of len bytes comes. */
static inline size_t polytls_conn_out_limit(const struct polytls_conn *conn, size_t len) {
  if (len <= POLYTLS_OUT_SHORT || conn->out_limit <= 2 * POLYTLS_OUT_RESERVE) {
    return conn->out_limit;
  }
  return conn->out_limit - POLYTLS_OUT_RESERVE;
}

/* Appends as much of bytes[0..len) to `out` as its limit allows and returns how
 * much that was: 0 when it is full. -1 when memory ran out, nothing being
 * appended then. bytes stays the caller's. */
static inline ptrdiff_t polytls_conn_out_append(struct polytls_conn *conn, const uint8_t *bytes, size_t len) {
  size_t limit = polytls_conn_out_limit(conn, len);
  if (conn->out_end >= limit || len == 0) {
    return 0;
  }
  if (len > limit - conn->out_end) {
    len = limit - conn->out_end;
  }
  size_t needed = conn->out_end + len;
  if (needed > conn->out_cap) {
    size_t capacity = conn->out_cap < 4096 ? 4096 : conn->out_cap * 2;
    if (capacity > conn->out_limit) {
      capacity = conn->out_limit;
    }
    if (capacity < needed) {
      capacity = needed;
    }
    uint8_t *grown = realloc(conn->out, capacity);
    if (grown == NULL) {
      return -1;
    }
    conn->out = grown;
    conn->out_cap = capacity;
  }
  memcpy(conn->out + conn->out_end, bytes, len);
  conn->out_end = needed;
  return (ptrdiff_t)len;
}

/* The most records in a row that may bring no data after the handshake (tickets,
 * key updates, warnings, empty records), for libraries without a bound of their
 * own. A peer that sends more makes this end work for nothing. crypto/tls allows
 * 16, BoringSSL 32 of a kind; here what the records hold is not known, and a
 * ticket may come in as many records as it has bytes. */
#define POLYTLS_MAX_IDLE_RECORDS 8192

/* A peer that has sent so many records in a row that bring no data floods, and the
 * step ends: others come first. crypto/tls ends the connection there. */
#define POLYTLS_FLOOD_RECORDS 16
/* A step of a flood ends after so many records more, but not before so many
 * nanoseconds: a key update may cost 30 microseconds (OpenSSL), an empty record
 * one. */
#define POLYTLS_FLOOD_STEP_RECORDS 4
#define POLYTLS_FLOOD_STEP_TIME 100000

static inline uint64_t polytls_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Reports whether the peer floods. */
static inline int polytls_conn_floods(const struct polytls_conn *conn) {
  return conn->idle_records >= POLYTLS_FLOOD_RECORDS;
}

/* Begins and ends a step of read, for in_take. */
static inline void polytls_conn_begin_read(struct polytls_conn *conn) {
  conn->idle_pause = conn->idle_limit == 0 ? 0 : POLYTLS_FLOOD_RECORDS;
  conn->idle_until = 0;
  if (polytls_conn_floods(conn)) {
    conn->idle_pause = conn->idle_records + POLYTLS_FLOOD_STEP_RECORDS;
    conn->idle_until = polytls_nanoseconds() + POLYTLS_FLOOD_STEP_TIME;
  }
}
static inline void polytls_conn_end_read(struct polytls_conn *conn) { conn->idle_pause = 0; }

/* Reports whether the step has taken enough: the rest is for the next one. */
static inline int polytls_conn_pauses(struct polytls_conn *conn) {
  if (conn->idle_pause == 0 || conn->idle_records < conn->idle_pause || conn->header_seen != 0) {
    return 0;
  }
  if (conn->idle_until != 0 && polytls_nanoseconds() < conn->idle_until) {
    conn->idle_pause = conn->idle_records + POLYTLS_FLOOD_STEP_RECORDS;
    return 0;
  }
  return 1;
}

/* The flag for a step of read that has brought no data: once for so many records as
 * a step of a flood takes, however few come at a time. */
static inline uint32_t polytls_conn_flood_flag(struct polytls_conn *conn) {
  uint32_t records = conn->idle_records;
  /* More than a step ahead is from before the last data. */
  int early = records < conn->idle_turn && conn->idle_turn <= records + POLYTLS_FLOOD_STEP_RECORDS;
  if (!polytls_conn_floods(conn) || early) {
    return 0;
  }
  conn->idle_turn = records + POLYTLS_FLOOD_STEP_RECORDS;
  return POLYTLS_FLAG_FLOOD;
}

/* Reports whether the peer has come to the limit: no further record is taken, and
 * the library's step waits for input that is there. */
static inline int polytls_conn_is_idle(const struct polytls_conn *conn) {
  return conn->idle_limit != 0 && conn->idle_records >= conn->idle_limit && conn->header_seen == 0;
}

/* Counts the records in what the library takes (RFC 8446 section 5.1: type,
 * version, uint16 length, content). */
static inline void polytls_conn_count_records(struct polytls_conn *conn, const uint8_t *bytes, size_t len) {
  size_t seen = conn->header_seen, left = conn->record_left;
  while (len > 0) {
    size_t n = 1;
    if (seen == 0 && len >= 5) {
      /* All of it at once, as libraries ask for it. */
      left = (size_t)bytes[3] << 8 | bytes[4];
      seen = n = 5;
    } else if (seen < 5) {
      left = (left << 8 | *bytes) & 0xffff; /* of the last two */
      seen++;
    } else {
      n = len < left ? len : left;
      left -= n;
    }
    bytes += n;
    len -= n;
    if (seen == 5 && left == 0) {
      seen = 0;
      conn->idle_records++;
    }
  }
  conn->header_seen = (uint8_t)seen;
  conn->record_left = (uint16_t)left;
}

/* Moves up to len bytes of ciphertext from `in` to bytes and returns how many;
 * 0 when `in` is empty, or the peer has sent too many records without data, in
 * all or for this step. */
static inline size_t polytls_conn_in_take(struct polytls_conn *conn, uint8_t *bytes, size_t len) {
  size_t waiting = conn->in_end - conn->in_start;
  if (len > waiting) {
    len = waiting;
  }
  if (polytls_conn_is_idle(conn) || polytls_conn_pauses(conn)) {
    return 0;
  }
  if (len > 0) {
    memcpy(bytes, conn->in + conn->in_start, len);
    conn->in_start += len;
    if (conn->idle_limit != 0) {
      polytls_conn_count_records(conn, bytes, len);
    }
  }
  if (conn->in_start == conn->in_end) {
    conn->in_start = 0;
    conn->in_end = 0;
  }
  return len;
}

/* Overwrites secrets in a way that compilers keep. */
static inline void polytls_wipe(uint8_t *bytes, size_t len) {
  memset(bytes, 0, len);
  /* What is said to read the memory here keeps the writes. */
  __asm__ __volatile__("" : : "r"(bytes) : "memory");
}

/* Wipes a buffer of secrets and frees its memory. */
static inline void polytls_secrets_free(uint8_t **bytes, size_t *end, size_t *capacity) {
  if (*bytes != NULL) {
    polytls_wipe(*bytes, *capacity);
    free(*bytes);
  }
  *bytes = NULL;
  *end = 0;
  *capacity = 0;
}

/* Makes room for more bytes behind *end. Returns 1, or 0 when memory ran out. */
static inline int polytls_secrets_grow(uint8_t **bytes, size_t *end, size_t *capacity, size_t more) {
  if (more > SIZE_MAX / 4 - *end) {
    return 0;
  }
  size_t needed = *end + more;
  if (needed <= *capacity) {
    return 1;
  }
  size_t grown_capacity = needed < 2048 ? 2048 : 2 * needed;
  /* No realloc: it would leave a copy behind. */
  uint8_t *grown = calloc(1, grown_capacity);
  if (grown == NULL) {
    return 0;
  }
  size_t used = *end;
  if (used > 0) {
    memcpy(grown, *bytes, used);
  }
  polytls_secrets_free(bytes, end, capacity);
  *bytes = grown;
  *end = used;
  *capacity = grown_capacity;
  return 1;
}

/* Wipes and frees key log and sessions. */
static inline void polytls_conn_secrets_free(struct polytls_conn *conn) {
  polytls_secrets_free(&conn->key_log, &conn->key_log_end, &conn->key_log_cap);
  polytls_secrets_free(&conn->sessions, &conn->sessions_end, &conn->sessions_cap);
}

/* Appends a line, which stays the caller's and has no line end, to the key log.
 * Returns 1, or 0 when memory ran out. */
static inline int polytls_conn_key_log_append(struct polytls_conn *conn, const void *line, size_t len) {
  if (!polytls_secrets_grow(&conn->key_log, &conn->key_log_end, &conn->key_log_cap, len + 1)) {
    return 0;
  }
  memcpy(conn->key_log + conn->key_log_end, line, len);
  conn->key_log_end += len + 1;
  conn->key_log[conn->key_log_end - 1] = '\n';
  return 1;
}

/* Appends a new session, which stays the caller's. Returns 1, or 0 when memory
 * ran out. */
static inline int polytls_conn_sessions_append(struct polytls_conn *conn, const uint8_t *session, size_t len) {
  if (len > UINT32_MAX || !polytls_secrets_grow(&conn->sessions, &conn->sessions_end, &conn->sessions_cap, len + 4)) {
    return 0;
  }
  uint8_t *at = conn->sessions + conn->sessions_end;
  at[0] = (uint8_t)(len >> 24);
  at[1] = (uint8_t)(len >> 16);
  at[2] = (uint8_t)(len >> 8);
  at[3] = (uint8_t)len;
  memcpy(at + 4, session, len);
  conn->sessions_end += 4 + len;
  return 1;
}

#endif /* POLYTLS_BUFFER_H */
