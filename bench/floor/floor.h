/*
 * A TLS library without Polytls, Go and sockets, measured: what a provider over
 * the same library cannot beat. Both ends are in this one thread and take
 * turns; ciphertext goes through memory.
 *
 * The program speaks as internal/measure.Serve does: requests are lines
 * "MEASURE NANOSECONDS MAXOPS" on stdin, answers lines of JSON on stdout. Its
 * argument is the folder of the certificates.
 *
 * A library implements the functions below and includes this header once. All
 * return 1, or 0 after floor_fail.
 */
#ifndef POLYTLS_FLOOR_H
#define POLYTLS_FLOOR_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FLOOR_SERVER_NAME "server.polytls.test"
#define FLOOR_PATH 4096

struct floor_settings {
  int rsa;
  int resume;
};

/* What the library calls itself. */
static const char *floor_library(void);
/* Prepares everything that connections share, from the files of a folder. */
static int floor_start(const char *dir);
/* Makes both ends, runs the handshake, checks what was negotiated, closes and
 * frees both. With resume the server writes one byte, which the client reads,
 * and the next handshake resumes what this one's tickets allow; resumed says
 * whether this one did. */
static int floor_handshake(struct floor_settings settings, int *resumed);
/* Opens the connection that floor_send uses, and closes it. */
static int floor_open(void);
static void floor_close(void);
/* Sends size bytes from one end to the other, into got; from_server says in
 * which direction. */
static int floor_send(int from_server, const uint8_t *data, uint8_t *got, size_t size);

static char floor_error[256];

__attribute__((format(printf, 1, 2))) static int floor_fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(floor_error, sizeof(floor_error), format, args);
  va_end(args);
  return 0;
}

/* Writes the path of a file to path, which has FLOOR_PATH bytes, and returns
 * path. kind is "ecdsa" or "rsa". */
static char *floor_path(char *path, const char *dir, int rsa, const char *name) {
  snprintf(path, FLOOR_PATH, "%s/%s-%s.pem", dir, rsa ? "rsa" : "ecdsa", name);
  return path;
}

static int64_t floor_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct floor_measure {
  const char *name;
  enum { FLOOR_HANDSHAKE, FLOOR_WRITE, FLOOR_ROUND } kind;
  struct floor_settings settings;
  size_t size;
};

static const struct floor_measure floor_measures[] = {
    {"handshake-ecdsa-memory", FLOOR_HANDSHAKE, {0, 0}, 0},
    {"handshake-rsa-memory", FLOOR_HANDSHAKE, {1, 0}, 0},
    {"handshake-resumed-memory", FLOOR_HANDSHAKE, {0, 1}, 0},
    {"write-16k-memory", FLOOR_WRITE, {0, 0}, 16384},
    {"write-1k-memory", FLOOR_WRITE, {0, 0}, 1024},
    {"pingpong-128-memory", FLOOR_ROUND, {0, 0}, 128},
};

static uint8_t floor_data[16384], floor_got[16384];

/* Runs n operations. */
static int floor_run(const struct floor_measure *m, long n) {
  for (long i = 0; i < n; i++) {
    switch (m->kind) {
    case FLOOR_HANDSHAKE: {
      int resumed = 0;
      if (!floor_handshake(m->settings, &resumed)) {
        return 0;
      }
      if (resumed != m->settings.resume) {
        return floor_fail("the handshake was %sresumed", resumed ? "" : "not ");
      }
      break;
    }
    case FLOOR_WRITE:
      if (!floor_send(0, floor_data, floor_got, m->size)) {
        return 0;
      }
      break;
    case FLOOR_ROUND:
      if (!floor_send(0, floor_data, floor_got, m->size) || !floor_send(1, floor_got, floor_got, m->size)) {
        return 0;
      }
      break;
    }
  }
  return 1;
}

/* Prepares what the operations need, and checks that data arrives as sent. */
static int floor_begin(const struct floor_measure *m) {
  if (m->kind == FLOOR_HANDSHAKE) {
    int resumed = 0;
    /* The first makes the session that the next resumes. */
    return !m->settings.resume || floor_handshake(m->settings, &resumed);
  }
  if (!floor_open()) {
    return 0;
  }
  for (size_t i = 0; i < m->size; i++) {
    floor_data[i] = (uint8_t)(i * 31 + i / 256);
  }
  memset(floor_got, 0, sizeof(floor_got));
  if (!floor_run(m, 1)) {
    return 0;
  }
  return memcmp(floor_data, floor_got, m->size) == 0 || floor_fail("the data that arrived is not what was sent");
}

/* Measures as internal/measure's timed does. */
static int floor_timed(const struct floor_measure *m, int64_t duration, long most, long *ops, int64_t *wall, int64_t *cpu) {
  long n = 1;
  for (;;) {
    int64_t begin = floor_clock(CLOCK_MONOTONIC);
    if (!floor_run(m, n)) {
      return 0;
    }
    int64_t took = floor_clock(CLOCK_MONOTONIC) - begin;
    if (n >= most) {
      break;
    }
    if (took >= duration / 10) {
      n = (long)((double)n * (double)duration / (double)took);
      break;
    }
    n *= took > duration / 80 ? 2 : 10;
    if (n > most) {
      n = most;
    }
  }
  if (n > most) {
    n = most;
  }
  if (n < 1) {
    n = 1;
  }
  *ops = n;
  *wall = floor_clock(CLOCK_MONOTONIC);
  *cpu = floor_clock(CLOCK_PROCESS_CPUTIME_ID);
  int ok = floor_run(m, n);
  *cpu = floor_clock(CLOCK_PROCESS_CPUTIME_ID) - *cpu;
  *wall = floor_clock(CLOCK_MONOTONIC) - *wall;
  return ok;
}

/* Writes text as a JSON string, without what would need more than a
 * backslash. */
static void floor_json(const char *name, const char *text) {
  printf("\"%s\":\"", name);
  for (; *text != 0; text++) {
    if (*text == '"' || *text == '\\') {
      putchar('\\');
    }
    putchar((unsigned char)*text < ' ' ? ' ' : *text);
  }
  putchar('"');
}

static void floor_answer(const char *name, int64_t duration, long most) {
  const struct floor_measure *m = NULL;
  for (size_t i = 0; i < sizeof(floor_measures) / sizeof(floor_measures[0]); i++) {
    if (strcmp(floor_measures[i].name, name) == 0) {
      m = &floor_measures[i];
    }
  }
  putchar('{');
  if (m == NULL) {
    floor_json("unsupported", "the plain library is measured without sockets only");
  } else {
    long ops = 0;
    int64_t wall = 0, cpu = 0;
    floor_error[0] = 0;
    int ok = floor_begin(m) && floor_timed(m, duration, most, &ops, &wall, &cpu);
    if (m->kind != FLOOR_HANDSHAKE) {
      floor_close();
    }
    if (ok) {
      int64_t bytes = (int64_t)ops * (int64_t)m->size * (m->kind == FLOOR_ROUND ? 2 : 1);
      printf("\"sample\":{\"ops\":%ld,\"bytes\":%lld,\"wall_ns\":%lld,\"cpu_ns\":%lld,\"threads\":1,", ops, (long long)bytes,
             (long long)wall, (long long)cpu);
      floor_json("negotiated", "TLS 1.3, TLS_AES_128_GCM_SHA256, X25519");
      putchar('}');
    } else {
      floor_json("error", floor_error[0] != 0 ? floor_error : "failed without a reason");
    }
  }
  printf("}\n");
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s FOLDER-OF-CERTIFICATES\n", argv[0]);
    return 2;
  }
  int ok = floor_start(argv[1]);
  putchar('{');
  floor_json("library", floor_library());
  if (!ok) {
    putchar(',');
    floor_json("error", floor_error);
  }
  printf("}\n");
  fflush(stdout);
  if (!ok) {
    return 1;
  }
  char line[256], name[128];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    long long duration = 0;
    long most = 0;
    if (sscanf(line, "%127s %lld %ld", name, &duration, &most) != 3) {
      fprintf(stderr, "malformed request: %s", line);
      return 1;
    }
    floor_answer(name, duration, most < 1 ? 1L << 30 : most);
  }
  return 0;
}

#endif /* POLYTLS_FLOOR_H */
