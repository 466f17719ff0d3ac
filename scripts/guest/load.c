/* load MB [MBPS]: holds MB MiB of memory filled with data that does not compress, and rewrites
 * MBPS MiB of it a second. Every block knows its seed, so before a block is rewritten (or, without
 * a rate, one block a second) it is checked: memory that was lost or mixed up in a suspend shows.
 * No libc: the guest has none. */
typedef unsigned long u64;
typedef long i64;

enum { SYS_WRITE = 1, SYS_MMAP = 9, SYS_NANOSLEEP = 35, SYS_EXIT = 60 };
enum { BLOCK = 1 << 20, WORDS = BLOCK / 8 };

static i64 call(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f) {
  i64 result;
  register i64 r10 __asm__("r10") = d;
  register i64 r8 __asm__("r8") = e;
  register i64 r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

static void say(const char *text) {
  i64 length = 0;
  while (text[length]) length++;
  call(SYS_WRITE, 1, (i64)text, length, 0, 0, 0);
}

static void pause_ms(i64 ms) {
  i64 time[2] = {ms / 1000, ms % 1000 * 1000000};
  call(SYS_NANOSLEEP, (i64)time, 0, 0, 0, 0, 0);
}

static u64 number(const char *text) {
  u64 value = 0;
  while (*text >= '0' && *text <= '9') value = value * 10 + (u64)(*text++ - '0');
  return value;
}

static u64 next(u64 state) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^ state << 17;
}

/* A block is: its seed, then what follows from the seed. */
static void fill(volatile u64 *block, u64 seed) {
  for (u64 i = 0; i < WORDS; i++) {
    block[i] = seed;
    seed = next(seed);
  }
}

static int intact(const volatile u64 *block, u64 seed) {
  for (u64 i = 0; i < WORDS; i++) {
    if (block[i] != seed) return 0;
    seed = next(seed);
  }
  return 1;
}

static u64 seed_of(u64 block, u64 round) { return (block + 1) * 0x9e3779b97f4a7c15UL + round * 2 + 1; }

__attribute__((used)) void start(u64 *stack) {
  u64 count = stack[0];
  if (count < 2) {
    say("load: usage: load MB [MBPS]\n");
    call(SYS_EXIT, 64, 0, 0, 0, 0, 0);
  }
  u64 blocks = number((const char *)stack[2]);
  u64 rate = count > 2 ? number((const char *)stack[3]) : 0;
  /* read + write, private + anonymous */
  i64 memory = call(SYS_MMAP, 0, (i64)(blocks * BLOCK), 3, 0x22, -1, 0);
  if (blocks == 0 || memory < 0) {
    say("GUEST-LOAD-FAILED no memory\n");
    call(SYS_EXIT, 1, 0, 0, 0, 0, 0);
  }
  for (u64 b = 0; b < blocks; b++) fill((u64 *)(memory + (i64)(b * BLOCK)), seed_of(b, 0));
  say("GUEST-FILLED\n");
  u64 per_tenth = (rate + 9) / 10;
  for (u64 at = 0, round = 0, written = 0;;) {
    for (u64 k = 0; k < (rate ? per_tenth : 1); k++) {
      volatile u64 *block = (u64 *)(memory + (i64)(at * BLOCK));
      if (!intact(block, seed_of(at, round))) say("GUEST-CORRUPT memory of the load\n");
      if (rate) fill(block, seed_of(at, round + 1));
      if (rate && ++written % 64 == 0) say("GUEST-WROTE 64 MiB\n");
      if (++at == blocks) {
        at = 0;
        if (rate) round++;
      }
    }
    pause_ms(rate ? 100 : 1000);
  }
}

__asm__(".globl _start\n_start:\n mov %rsp,%rdi\n and $-16,%rsp\n call start\n");
