//go:build cgo && polytls_faults

#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "polytls_native.h"

/* The functions behind the redirected ones. Weak: cgo links this file alone to
 * look at it, without the packages that have them. */
void *__real_malloc(size_t size) __attribute__((weak));
void *__real_calloc(size_t count, size_t size) __attribute__((weak));
void *__real_realloc(void *old, size_t size) __attribute__((weak));
void __real_free(void *p) __attribute__((weak));
int __real_posix_memalign(void **out, size_t alignment, size_t size) __attribute__((weak));

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void __wrap_free(void *p);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t limit);

/* ---- what is counted ---- */

/* How many calls through a table are on the thread's stack. */
static _Thread_local int depth;

/* The lock guards what follows it. The table is open addressing with linear
 * probing; a slot whose block was freed has the address REMOVED. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int counting;
static enum polytls_faults_trace tracing;
static size_t traced_sizes[POLYTLS_FAULTS_SIZES];
static size_t traced_count;
static uint64_t failing;
static uint64_t counted;
static struct polytls_faults_block failed;
static struct polytls_faults_block blocks[POLYTLS_FAULTS_BLOCKS];
static size_t used; /* slots that are not empty */
static char removed;
#define REMOVED ((void *)&removed)

static size_t slot_of(const void *p) {
  uint64_t x = (uint64_t)(uintptr_t)p;
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  return (size_t)(x & (POLYTLS_FAULTS_BLOCKS - 1));
}

/* Fills in the stack of the caller, without the frames of this file. */
static __attribute__((noinline)) void trace_stack(struct polytls_faults_block *block) {
  void *frames[POLYTLS_FAULTS_FRAMES + 3];
  int n = backtrace(frames, POLYTLS_FAULTS_FRAMES + 3);
  int skip = n < 3 ? n : 3;
  block->frames = n - skip;
  memcpy(block->stack, frames + skip, (size_t)block->frames * sizeof(frames[0]));
}

/* Counts an allocation and says whether it is to fail. */
static __attribute__((noinline)) int refuse(uint64_t *number) {
  *number = 0;
  if (depth == 0) {
    return 0;
  }
  int fails = 0;
  pthread_mutex_lock(&lock);
  if (counting) {
    *number = ++counted;
    fails = counted == failing;
    if (fails) {
      int saved = depth;
      depth = 0;
      trace_stack(&failed);
      depth = saved;
    }
  }
  pthread_mutex_unlock(&lock);
  return fails;
}

/* Says whether the stack of a block is to be kept. It is called with the lock held. */
static int traced(size_t size) {
  if (tracing != POLYTLS_FAULTS_STACKS_OF_SIZES) {
    return tracing == POLYTLS_FAULTS_STACKS;
  }
  for (size_t i = 0; i < traced_count; i++) {
    if (traced_sizes[i] == size) {
      return 1;
    }
  }
  return 0;
}

/* Remembers a block that was allocated with a number; nothing without. */
static __attribute__((noinline)) void remember(void *p, size_t size, uint64_t number) {
  if (p == NULL || number == 0) {
    return;
  }
  pthread_mutex_lock(&lock);
  /* A table that is full would search for ever. */
  if (used < POLYTLS_FAULTS_BLOCKS / 4 * 3) {
    size_t i = slot_of(p);
    while (blocks[i].address != NULL && blocks[i].address != REMOVED) {
      i = (i + 1) & (POLYTLS_FAULTS_BLOCKS - 1);
    }
    used += blocks[i].address == NULL;
    blocks[i].address = p;
    blocks[i].number = number;
    blocks[i].size = size;
    blocks[i].frames = 0;
    if (traced(size)) {
      int saved = depth;
      depth = 0;
      trace_stack(&blocks[i]);
      depth = saved;
    }
  }
  pthread_mutex_unlock(&lock);
}

static void forget(const void *p) {
  if (p == NULL) {
    return;
  }
  pthread_mutex_lock(&lock);
  for (size_t i = slot_of(p); blocks[i].address != NULL; i = (i + 1) & (POLYTLS_FAULTS_BLOCKS - 1)) {
    if (blocks[i].address == p) {
      blocks[i].address = REMOVED;
      break;
    }
  }
  pthread_mutex_unlock(&lock);
}

void polytls_faults_start(uint64_t fail_at, enum polytls_faults_trace trace, const size_t *sizes, size_t n) {
  pthread_mutex_lock(&lock);
  traced_count = n < POLYTLS_FAULTS_SIZES ? n : POLYTLS_FAULTS_SIZES;
  for (size_t i = 0; i < traced_count; i++) {
    traced_sizes[i] = sizes[i];
  }
  for (size_t i = 0; i < POLYTLS_FAULTS_BLOCKS; i++) {
    blocks[i].address = NULL;
  }
  used = 0;
  counted = 0;
  failing = fail_at;
  tracing = trace;
  failed.frames = 0;
  counting = 1;
  pthread_mutex_unlock(&lock);
}

void polytls_faults_stop(void) {
  pthread_mutex_lock(&lock);
  counting = 0;
  pthread_mutex_unlock(&lock);
}

uint64_t polytls_faults_count(void) {
  pthread_mutex_lock(&lock);
  uint64_t n = counted;
  pthread_mutex_unlock(&lock);
  return n;
}

size_t polytls_faults_living(struct polytls_faults_block *out, size_t n) {
  size_t found = 0;
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < POLYTLS_FAULTS_BLOCKS && found < n; i++) {
    if (blocks[i].address != NULL && blocks[i].address != REMOVED) {
      out[found++] = blocks[i];
    }
  }
  pthread_mutex_unlock(&lock);
  return found;
}

void polytls_faults_failed(struct polytls_faults_block *out) {
  pthread_mutex_lock(&lock);
  *out = failed;
  pthread_mutex_unlock(&lock);
}

/* ---- the redirected functions ---- */

void *__wrap_malloc(size_t size) {
  uint64_t number;
  if (refuse(&number)) {
    errno = ENOMEM;
    return NULL;
  }
  void *p = __real_malloc(size);
  remember(p, size, number);
  return p;
}

void *__wrap_calloc(size_t count, size_t size) {
  uint64_t number;
  if (refuse(&number)) {
    errno = ENOMEM;
    return NULL;
  }
  void *p = __real_calloc(count, size);
  remember(p, count * size, number);
  return p;
}

void *__wrap_realloc(void *old, size_t size) {
  uint64_t number;
  if (refuse(&number)) {
    errno = ENOMEM;
    return NULL;
  }
  forget(old);
  void *p = __real_realloc(old, size);
  remember(p, size, number);
  return p;
}

void __wrap_free(void *p) {
  /* First: another thread may get the address at once. */
  forget(p);
  __real_free(p);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t size) {
  uint64_t number;
  if (refuse(&number)) {
    return ENOMEM;
  }
  int error = __real_posix_memalign(out, alignment, size);
  if (error == 0) {
    remember(*out, size, number);
  }
  return error;
}

char *__wrap_strndup(const char *text, size_t limit) {
  size_t len = strnlen(text, limit);
  char *copy = __wrap_malloc(len + 1);
  if (copy != NULL) {
    memcpy(copy, text, len);
    copy[len] = 0;
  }
  return copy;
}

char *__wrap_strdup(const char *text) { return __wrap_strndup(text, strlen(text)); }

/* ---- the tables ---- */

static atomic_int scope;

void polytls_faults_scope(enum polytls_faults_scope s) { atomic_store(&scope, (int)s); }

#define CALL_IF(counts, call)          \
  do {                                 \
    int in_ = (counts);                \
    depth += in_;                      \
    struct polytls_result r_ = (call); \
    depth -= in_;                      \
    return r_;                         \
  } while (0)
#define CALL(call) CALL_IF(atomic_load(&scope) != POLYTLS_FAULTS_CTX_NEW, call)

/* Buffers are allocated by Go, between the calls of a table. */
void *__real_polytls_buffer_new(size_t size) __attribute__((weak));
void *__wrap_polytls_buffer_new(size_t size);
void *__wrap_polytls_buffer_new(size_t size) {
  int in = atomic_load(&scope) != POLYTLS_FAULTS_CTX_NEW;
  depth += in;
  void *p = __real_polytls_buffer_new(size);
  depth -= in;
  return p;
}

/* One table around another: every function counts itself in and out. init and
 * version run once in a process and are left alone. */
#define WRAP_LIBRARY(lib)                                                                                      \
  const struct polytls_library *__real_polytls_##lib##_library(void) __attribute__((weak));                    \
  const struct polytls_library *__wrap_polytls_##lib##_library(void);                                          \
  static const struct polytls_library *lib;                                                                    \
  static struct polytls_result lib##_ctx_new(enum polytls_role role, struct polytls_ctx **out) {               \
    CALL_IF(atomic_load(&scope) != POLYTLS_FAULTS_NOT_CTX_NEW, lib->ctx_new(role, out));                        \
  }                                                                                                            \
  static struct polytls_result lib##_ctx_set(struct polytls_ctx *c, int option, const uint8_t *p, size_t n) {  \
    CALL(lib->ctx_set(c, option, p, n));                                                \
  }                                                                                                            \
  static struct polytls_result lib##_ctx_finish(struct polytls_ctx *c) {                                       \
    CALL(lib->ctx_finish(c));                                                           \
  }                                                                                                            \
  static void lib##_ctx_free(struct polytls_ctx *c) {                                                          \
    depth++;                                                                                                   \
    lib->ctx_free(c);                                                                                          \
    depth--;                                                                                                   \
  }                                                                                                            \
  static struct polytls_result lib##_conn_new(struct polytls_ctx *c, struct polytls_conn **out) {              \
    CALL(lib->conn_new(c, out));                                                        \
  }                                                                                                            \
  static struct polytls_result lib##_conn_set(struct polytls_conn *c, int option, const uint8_t *p, size_t n) { \
    CALL(lib->conn_set(c, option, p, n));                                               \
  }                                                                                                            \
  static struct polytls_result lib##_handshake(struct polytls_conn *c) {                                       \
    CALL(lib->handshake(c));                                                            \
  }                                                                                                            \
  static struct polytls_result lib##_read(struct polytls_conn *c, uint8_t *p, size_t n) {                      \
    CALL(lib->read(c, p, n));                                                           \
  }                                                                                                            \
  static struct polytls_result lib##_write(struct polytls_conn *c, const uint8_t *p, size_t n) {               \
    CALL(lib->write(c, p, n));                                                          \
  }                                                                                                            \
  static struct polytls_result lib##_close_notify(struct polytls_conn *c) {                                    \
    CALL(lib->close_notify(c));                                                         \
  }                                                                                                            \
  static struct polytls_result lib##_query(struct polytls_conn *c, int what, uint8_t *p, size_t n) {           \
    CALL(lib->query(c, what, p, n));                                                    \
  }                                                                                                            \
  static void lib##_conn_free(struct polytls_conn *c) {                                                        \
    depth++;                                                                                                   \
    lib->conn_free(c);                                                                                         \
    depth--;                                                                                                   \
  }                                                                                                            \
  const struct polytls_library *__wrap_polytls_##lib##_library(void) {                                         \
    static struct polytls_library table;                                                                       \
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;                                                   \
    pthread_mutex_lock(&once);                                                                                 \
    if (lib == NULL) {                                                                                         \
      lib = __real_polytls_##lib##_library();                                                                  \
      table = *lib;                                                                                            \
      if (lib->unavailable == NULL) {                                                                          \
        table.ctx_new = lib##_ctx_new;                                                                         \
        table.ctx_set = lib##_ctx_set;                                                                         \
        table.ctx_finish = lib##_ctx_finish;                                                                   \
        table.ctx_free = lib##_ctx_free;                                                                       \
        table.conn_new = lib##_conn_new;                                                                       \
        table.conn_set = lib##_conn_set;                                                                       \
        table.handshake = lib##_handshake;                                                                     \
        table.read = lib##_read;                                                                               \
        table.write = lib##_write;                                                                             \
        table.close_notify = lib##_close_notify;                                                               \
        table.query = lib##_query;                                                                             \
        table.conn_free = lib##_conn_free;                                                                     \
      }                                                                                                        \
    }                                                                                                          \
    pthread_mutex_unlock(&once);                                                                               \
    return &table;                                                                                             \
  }                                                                                                            \
  typedef int polytls_##lib##_is_wrapped

WRAP_LIBRARY(openssl);
WRAP_LIBRARY(boringssl);
WRAP_LIBRARY(s2n);

/* ---- crashes ---- */

/* Says where native code has crashed. The Go runtime, which takes these signals
 * over, passes on those that come while a thread is in C. */
static void say(const char *what, void *value) {
  char line[80];
  int len = snprintf(line, sizeof(line), "polytls crash %s %p\n", what, value);
  if (write(2, line, (size_t)len) < 0) {
    _exit(99);
  }
}

static void crashed(int sig, siginfo_t *info, void *context) {
  (void)info;
  say("signal", (void *)(uintptr_t)sig);
#if defined(__x86_64__)
  /* Go's frames stand between this function's and those of the crash. */
  say("frame", (void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  say("frame", (void *)((ucontext_t *)context)->uc_mcontext.pc);
#else
  (void)context;
#endif
  /* The lock may be held by this very thread. */
  for (int i = 0; i < failed.frames; i++) {
    say("failed", failed.stack[i]);
  }
  _exit(98);
}

__attribute__((constructor)) static void watch_crashes(void) {
  /* The first call of backtrace allocates. */
  void *frame;
  backtrace(&frame, 1);
  struct sigaction action;
  memset(&action, 0, sizeof(action));
  action.sa_sigaction = crashed;
  action.sa_flags = SA_ONSTACK | SA_SIGINFO;
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGILL, &action, NULL);
  sigaction(SIGABRT, &action, NULL);
}

void polytls_faults_crash(void) { abort(); }
