/*
 * For programs that show how a library alone behaves when memory runs out: link
 * with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free. Every
 * allocation of one call fails in turn, each in a process of its own.
 */
#ifndef FAILING_H
#define FAILING_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void __real_free(void *p);

static int failing_counts;
static long failing_count;
static long failing_at;
static long failing_living;
enum { FAILING_BLOCKS = 1 << 16 };
static void *failing_blocks[FAILING_BLOCKS];

static int failing_refuse(void) { return failing_counts && ++failing_count == failing_at; }

static void *failing_remember(void *p) {
  if (p != NULL && failing_counts) {
    for (size_t i = 0; i < FAILING_BLOCKS; i++) {
      if (failing_blocks[i] == NULL) {
        failing_blocks[i] = p;
        failing_living++;
        break;
      }
    }
  }
  return p;
}

static void failing_forget(const void *p) {
  for (size_t i = 0; p != NULL && failing_living > 0 && i < FAILING_BLOCKS; i++) {
    if (failing_blocks[i] == p) {
      failing_blocks[i] = NULL;
      failing_living--;
      return;
    }
  }
}

void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size) { return failing_refuse() ? NULL : failing_remember(__real_malloc(size)); }

void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size) {
  return failing_refuse() ? NULL : failing_remember(__real_calloc(count, size));
}

void *__wrap_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size) {
  if (failing_refuse()) {
    return NULL;
  }
  failing_forget(old);
  return failing_remember(__real_realloc(old, size));
}

void __wrap_free(void *p);
void __wrap_free(void *p) {
  failing_forget(p);
  __real_free(p);
}

/* Calls the function once for each of its allocations, which fails. The function
 * frees all that it gets and forgets the library's errors. Returns the exit
 * status of the program: 0 when the call has crashed (with crashes set) or lost
 * memory (without), 1 when it has not. */
static inline int failing_run(void (*call)(void), int crashes) {
  call(); /* what the library makes once */
  failing_counts = 1;
  call();
  failing_counts = 0;
  long total = failing_count, shown = 0;
  for (long at = 1; at <= total; at++) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      memset(failing_blocks, 0, sizeof(failing_blocks));
      failing_count = 0;
      failing_living = 0;
      failing_at = at;
      failing_counts = 1;
      call();
      failing_counts = 0;
      _exit(failing_living > 0 ? 1 : 0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
      perror("fork");
      return 2;
    }
    if (WIFSIGNALED(status)) {
      printf("allocation %ld of %ld: signal %d\n", at, total, WTERMSIG(status));
      shown += crashes;
    } else if (WEXITSTATUS(status) != 0) {
      printf("allocation %ld of %ld: memory is lost\n", at, total);
      shown += !crashes;
    }
  }
  return shown > 0 ? 0 : 1;
}

/* A self-signed certificate on P-256 and its key. They are public, and of no use
 * but here. */
#include "failing_certificate.h"

#endif
