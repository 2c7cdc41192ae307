/*
 * Allocations that fail: see doc.go. All functions may be called by any thread.
 */
#ifndef POLYTLS_FAULTS_H
#define POLYTLS_FAULTS_H

#include <stddef.h>
#include <stdint.h>

enum { POLYTLS_FAULTS_FRAMES = 44, POLYTLS_FAULTS_BLOCKS = 1 << 15, POLYTLS_FAULTS_SIZES = 32 };

/* A block of memory. Whoever reads its address must not use what is there. */
struct polytls_faults_block {
  void *address;
  uint64_t number;
  size_t size;
  int frames;
  void *stack[POLYTLS_FAULTS_FRAMES];
};

/* What counts: all functions of a table, all but ctx_new, ctx_new alone. */
enum polytls_faults_scope { POLYTLS_FAULTS_ALL = 0, POLYTLS_FAULTS_NOT_CTX_NEW = 1, POLYTLS_FAULTS_CTX_NEW = 2 };
void polytls_faults_scope(enum polytls_faults_scope scope);

enum polytls_faults_trace { POLYTLS_FAULTS_NO_STACKS = 0, POLYTLS_FAULTS_STACKS = 1, POLYTLS_FAULTS_STACKS_OF_SIZES = 2 };
/* Counts from zero; fail_at is the number of the allocation that fails, 0 for
 * none. Forgets the blocks of the last time. The sizes, POLYTLS_FAULTS_SIZES at
 * most, are those of the blocks whose stacks are kept. */
void polytls_faults_start(uint64_t fail_at, enum polytls_faults_trace trace, const size_t *sizes, size_t n);
void polytls_faults_stop(void);
uint64_t polytls_faults_count(void);
/* Copies up to n living blocks and returns how many. */
size_t polytls_faults_living(struct polytls_faults_block *out, size_t n);
/* Copies the stack of the allocation that failed. */
void polytls_faults_failed(struct polytls_faults_block *out);
void polytls_faults_crash(void);

#endif
