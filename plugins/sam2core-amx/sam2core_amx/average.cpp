// Softmax averages of narrow tokens in bfloat16, on tiles (Intel AMX): plain C functions for ctypes, no Python, no torch.
//
// mean(q) = sum_k exp(scale * q.k) token_k / sum_k exp(scale * q.k), by running sums over blocks of keys (Milakov and
// Gimelshein 2018; Dao et al. 2022). Scores, weights' sums and means are fp32; weights are rounded for the second product.
//
// Keys and tokens are packed once into tiles, by all threads; then each thread takes blocks of queries that stay in its
// L2 cache while the packed keys stream past them.

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#define TILED __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))
#define INLINED TILED __attribute__((always_inline)) static inline

// torch's own threads, whichever OpenMP it brought; null where it brought none.
extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned) __attribute__((weak));

namespace {

constexpr long SIDE = 16;              // rows of a tile; also fp32 in a vector
constexpr long PAIR = 2 * SIDE;        // bf16 in a row of a tile; also queries and keys treated together
constexpr long TILE = SIDE * PAIR;     // bf16 in a tile
constexpr long KEYS = 256;             // keys in a block
constexpr long QUERIES = 1024;         // queries a thread holds, at most
constexpr long HALVES = KEYS / SIDE;   // tiles of scores in a row of a block
constexpr size_t ALIGNED = 64;         // bytes of a cache line
constexpr float NOTHING = -1e30f;      // the score of a key that is not there

struct Problem {
    const uint16_t *query, *key, *tokens;
    const int64_t* chosen;  // which keys count; null: all
    uint16_t* mean;
    long query_stride, key_stride, token_stride, mean_stride;
    long queries, keys, width, token_width;
    float scale;
    // from here on: made inside
    long chunks, columns;  // tiles along the width of a key, and of a token
    uint16_t *packed_keys, *packed_tokens;
    long per_turn, turns;  // pairs of query tiles, or of keys, that a thread takes at once
    char* rooms;           // what the threads hold, one after another
    std::atomic<long> next{0}, workers{0};
};

long up(long n, long to) { return (n + to - 1) / to; }

// Memory in large pages, which says in its first bytes how long it is. One piece is kept for the next call: fresh pages
// cost a sixth of the time that a call takes.
std::atomic<char*> spare{nullptr};

size_t& length(char* memory) { return *reinterpret_cast<size_t*>(memory); }

void release(char* memory) {
    memory = spare.exchange(memory);
    if (memory) munmap(memory, length(memory));
}

char* claim(size_t bytes) {
    bytes += ALIGNED;
    char* memory = spare.exchange(nullptr);
    if (!memory || length(memory) < bytes) {
        if (memory) munmap(memory, length(memory));
        void* fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fresh == MAP_FAILED) return nullptr;
        madvise(fresh, bytes, MADV_HUGEPAGE);
        memory = static_cast<char*>(fresh);
        length(memory) = bytes;
    }
    return memory;
}

// All eight tiles are 16 rows of 64 bytes.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE};
};
constexpr TileShapes SHAPES;

// Compilers do not see what tiles read and write.
inline void settle() { asm volatile("" ::: "memory"); }

// 16 rows of 16 32-bit numbers, transposed in place.
INLINED void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// Up to 32 bf16 at `from` + `first` of a row that is `width` long; zeros beyond.
INLINED __m512i part(const uint16_t* from, long first, long width) {
    long left = width - first;
    __mmask32 mask = left >= PAIR ? ~0u : left > 0 ? (1u << left) - 1 : 0u;
    return _mm512_maskz_loadu_epi16(mask, from + first);
}

INLINED const uint16_t* row(const uint16_t* from, long stride, const Problem& p, long key) {
    return from + stride * (p.chosen ? p.chosen[key] : key);
}

// 32 keys into tiles [chunk][half]: row r of a tile holds numbers 2 r and 2 r + 1 of 16 keys. Their tokens into tiles
// [column]: row r holds 16 numbers of keys 2 r and 2 r + 1, in turns.
TILED void pack(const Problem& p, long group) {
    const __m512i zero = _mm512_setzero_si512();
    uint16_t* to = p.packed_keys + group * p.chunks * 2 * TILE;
    for (long chunk = 0; chunk < p.chunks; chunk++)
        for (long half = 0; half < 2; half++, to += TILE) {
            __m512i rows[16];
            for (long i = 0; i < SIDE; i++) {
                long key = group * PAIR + half * SIDE + i;
                rows[i] = key < p.keys ? part(row(p.key, p.key_stride, p, key), chunk * PAIR, p.width) : zero;
            }
            transpose(rows);
            for (long i = 0; i < SIDE; i++) _mm512_store_si512(to + i * PAIR, rows[i]);
        }
    const __m512i even = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                          36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(SIDE));
    to = p.packed_tokens + group * p.columns * TILE;
    for (long column = 0; column < p.columns; column += 2)
        for (long i = 0; i < SIDE; i++) {
            long key = group * PAIR + 2 * i;
            __m512i a = key < p.keys ? part(row(p.tokens, p.token_stride, p, key), column * SIDE, p.token_width) : zero;
            __m512i b =
                key + 1 < p.keys ? part(row(p.tokens, p.token_stride, p, key + 1), column * SIDE, p.token_width) : zero;
            _mm512_store_si512(to + column * TILE + i * PAIR, _mm512_permutex2var_epi16(a, even, b));
            _mm512_store_si512(to + (column + 1) * TILE + i * PAIR, _mm512_permutex2var_epi16(a, odd, b));
        }
}

// What a thread holds of a block of queries.
struct Block {
    uint16_t* query;    // tiles [pair][chunk][half]
    float* mean;        // tiles [pair][half][column], not yet divided
    float* total;       // [row][16]: parts of the sum of weights
    float* top;         // [row]: the largest score so far
    float* scores[2];   // tiles [half][HALVES], of one pair of query tiles, and of the next
    uint16_t* weights;  // tiles [half][HALVES / 2]
};

// 32 queries whose scores in a block of keys are there, and have yet to become weights.
struct Scored {
    const float* scores;
    long groups, columns;
    float factor, *top, *total, *mean;
    uint16_t* weights;
    const uint16_t* tokens;
};

// 2 to the power of x, within 3e-6 of the result: a polynomial on [0, 1), fitted to the relative error.
INLINED __m512 power(__m512 x) {
    const __m512 rest = _mm512_reduce_ps(x, 0x09);  // x less the whole number below it
    __m512 y = _mm512_fmadd_ps(_mm512_set1_ps(0.013534168f), rest, _mm512_set1_ps(0.052011462f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.241442754f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.693003835f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, x);
}

// The way through 32 scored queries, by pairs of tiles of scores; what is `less` makes exponents of them.
struct Weighing {
    const Scored& of;
    long row, group;
    const float* from;
    uint16_t* to;
    __m512 less, sum;
};

// The largest number in each of 16 vectors.
INLINED __m512 largest(__m512 r[16]) {
    for (int i = 0; i < 8; i++)
        r[i] = _mm512_max_ps(_mm512_shuffle_f32x4(r[i], r[i + 8], 0x44), _mm512_shuffle_f32x4(r[i], r[i + 8], 0xee));
    for (int i = 0; i < 4; i++)
        r[i] = _mm512_max_ps(_mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd));
    for (int i = 0; i < 2; i++)
        r[i] = _mm512_max_ps(_mm512_unpacklo_ps(r[i], r[i + 2]), _mm512_unpackhi_ps(r[i], r[i + 2]));
    r[0] = _mm512_max_ps(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
    return _mm512_shuffle_f32x4(r[0], r[0], 0xd8);
}

// The largest scores of 16 queries; running sums are shrunk where none before was larger.
INLINED void top(const Scored& of, long half) {
    const float* from = of.scores + half * HALVES * SIDE * SIDE;
    __m512 most[16];
    for (long i = 0; i < SIDE; i++) most[i] = _mm512_max_ps(_mm512_load_ps(from + i * SIDE), _mm512_load_ps(from + (SIDE + i) * SIDE));
    for (long tile = 2; tile < 2 * of.groups; tile += 2) {
        const float* at = from + tile * SIDE * SIDE;
        for (long i = 0; i < SIDE; i++)
            most[i] = _mm512_max_ps(most[i], _mm512_max_ps(_mm512_load_ps(at + i * SIDE), _mm512_load_ps(at + (SIDE + i) * SIDE)));
    }
    const __m512 before = _mm512_load_ps(of.top + half * SIDE), now = _mm512_max_ps(before, largest(most));
    unsigned grown = _mm512_cmp_ps_mask(now, before, _CMP_GT_OQ);
    if (!grown) return;
    _mm512_store_ps(of.top + half * SIDE, now);
    const __m512 by = _mm512_set1_ps(of.factor), least = _mm512_set1_ps(-200.0f);  // power(-200) is 0
    alignas(64) float shrink[SIDE];
    _mm512_store_ps(shrink, power(_mm512_max_ps(_mm512_mul_ps(_mm512_sub_ps(before, now), by), least)));
    for (; grown; grown &= grown - 1) {
        const long i = __builtin_ctz(grown);
        const __m512 factor = _mm512_set1_ps(shrink[i]);
        float* total = of.total + (half * SIDE + i) * SIDE;
        _mm512_store_ps(total, _mm512_mul_ps(_mm512_load_ps(total), factor));
        for (long column = 0; column < of.columns; column++) {
            float* mean = of.mean + ((half * of.columns + column) * SIDE + i) * SIDE;
            _mm512_store_ps(mean, _mm512_mul_ps(_mm512_load_ps(mean), factor));
        }
    }
}

// 32 scores of a query to weights.
INLINED void weigh(Weighing& w) {
    if (w.row == PAIR) return;
    if (w.group == 0) {
        const long half = w.row / SIDE, i = w.row % SIDE;
        if (i == 0) top(w.of, half);
        w.from = w.of.scores + (half * HALVES * SIDE + i) * SIDE;
        w.to = w.of.weights + half * HALVES / 2 * TILE + i * PAIR;
        w.sum = _mm512_load_ps(w.of.total + w.row * SIDE);
        w.less = _mm512_set1_ps(w.of.top[w.row] * w.of.factor);
    }
    const __m512 by = _mm512_set1_ps(w.of.factor);
    const float* at = w.from + w.group * 2 * SIDE * SIDE;
    __m512 first = power(_mm512_fmsub_ps(_mm512_load_ps(at), by, w.less));
    __m512 second = power(_mm512_fmsub_ps(_mm512_load_ps(at + SIDE * SIDE), by, w.less));
    w.sum = _mm512_add_ps(w.sum, _mm512_add_ps(first, second));
    _mm512_store_si512(w.to + w.group * TILE, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    if (++w.group == w.of.groups) {
        _mm512_store_ps(w.of.total + w.row * SIDE, w.sum);
        w.row++, w.group = 0;
    }
}

// Scores of 32 queries by `groups` x 32 keys. Those scored before are weighed meanwhile: tiles and vectors are different
// units of a core, which work at the same time when their instructions take turns.
TILED void score(const uint16_t* query, const uint16_t* keys, long chunks, long groups, float* scores, const Scored& before) {
    settle();
    Weighing w{before, before.groups ? 0 : PAIR, 0, nullptr, nullptr, {}, {}};
    for (long group = 0; group < groups; group++) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long chunk = 0; chunk < chunks; chunk++, keys += 2 * TILE) {
            _tile_loadd(4, query + chunk * 2 * TILE, 64);
            _tile_loadd(6, keys, 64);
            _tile_dpbf16ps(0, 4, 6);
            weigh(w);
            _tile_loadd(7, keys + TILE, 64);
            _tile_dpbf16ps(1, 4, 7);
            weigh(w);
            _tile_loadd(5, query + chunk * 2 * TILE + TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            weigh(w);
            _tile_dpbf16ps(3, 5, 7);
            weigh(w);
        }
        float* to = scores + group * 2 * SIDE * SIDE;
        _tile_stored(0, to, 64);
        _tile_stored(1, to + SIDE * SIDE, 64);
        _tile_stored(2, to + HALVES * SIDE * SIDE, 64);
        _tile_stored(3, to + (HALVES + 1) * SIDE * SIDE, 64);
    }
    while (w.row < PAIR) weigh(w);
    settle();
}

// Adds the weighted tokens to the means.
TILED void gather(const Scored& s) {
    settle();
    for (long column = 0; column < s.columns; column += 2) {
        float *a = s.mean + column * SIDE * SIDE, *b = a + s.columns * SIDE * SIDE;
        _tile_loadd(0, a, 64);
        _tile_loadd(1, a + SIDE * SIDE, 64);
        _tile_loadd(2, b, 64);
        _tile_loadd(3, b + SIDE * SIDE, 64);
        for (long group = 0; group < s.groups; group++) {
            const uint16_t* tokens = s.tokens + (group * s.columns + column) * TILE;
            _tile_loadd(4, s.weights + group * TILE, 64);
            _tile_loadd(6, tokens, 64);
            _tile_loadd(7, tokens + TILE, 64);
            _tile_loadd(5, s.weights + (HALVES / 2 + group) * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, a, 64);
        _tile_stored(1, a + SIDE * SIDE, 64);
        _tile_stored(2, b, 64);
        _tile_stored(3, b + SIDE * SIDE, 64);
    }
    settle();
}

// Scores of keys that are not there.
TILED void hide(float* scores, long keys, long groups) {
    for (long key = keys; key < groups * PAIR; key++)
        for (long half = 0; half < 2; half++)
            for (long i = 0; i < SIDE; i++)
                scores[((half * HALVES + key / SIDE) * SIDE + i) * SIDE + key % SIDE] = NOTHING;
}

TILED void take_queries(const Problem& p, const Block& b, long first, long pairs) {
    const __m512i zero = _mm512_setzero_si512();
    uint16_t* to = b.query;
    for (long pair = 0; pair < pairs; pair++)
        for (long chunk = 0; chunk < p.chunks; chunk++)
            for (long i = 0; i < PAIR; i++, to += PAIR) {
                long query = (first + pair) * PAIR + i;
                _mm512_store_si512(
                    to, query < p.queries ? part(p.query + query * p.query_stride, chunk * PAIR, p.width) : zero);
            }
    memset(b.mean, 0, pairs * PAIR * p.columns * SIDE * sizeof(float));
    memset(b.total, 0, pairs * PAIR * SIDE * sizeof(float));
    std::fill_n(b.top, pairs * PAIR, NOTHING);
}

TILED void give_means(const Problem& p, const Block& b, long first, long pairs) {
    for (long i = 0; i < pairs * PAIR; i++) {
        long query = first * PAIR + i;
        if (query >= p.queries) return;
        __m512 divisor = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_load_ps(b.total + i * SIDE)));
        const float* from = b.mean + i / SIDE * p.columns * SIDE * SIDE + i % SIDE * SIDE;
        for (long column = 0; column < p.columns; column++) {
            __m512 mean = _mm512_div_ps(_mm512_load_ps(from + column * SIDE * SIDE), divisor);
            long left = std::min(SIDE, p.token_width - column * SIDE);
            if (left <= 0) break;
            __mmask16 mask = (1u << left) - 1;
            _mm256_mask_storeu_epi16(p.mean + query * p.mean_stride + column * SIDE, mask, (__m256i)_mm512_cvtneps_pbh(mean));
        }
    }
}

TILED void average_block(const Problem& p, const Block& b, long first, long pairs) {
    take_queries(p, b, first, pairs);
    Scored before = {};
    for (long start = 0; start < p.keys; start += KEYS) {
        const long keys = std::min(KEYS, p.keys - start), groups = up(keys, PAIR);
        const uint16_t* packed = p.packed_keys + start / PAIR * p.chunks * 2 * TILE;
        const uint16_t* tokens = p.packed_tokens + start / PAIR * p.columns * TILE;
        for (long pair = 0; pair < pairs; pair++) {
            float* scores = b.scores[before.scores == b.scores[0]];
            score(b.query + pair * p.chunks * 2 * TILE, packed, p.chunks, groups, scores, before);
            if (keys % PAIR) hide(scores, keys, groups);
            if (before.groups) gather(before);
            const long row = pair * PAIR;
            before = {scores, groups, p.columns, p.scale * 1.44269504f, b.top + row, b.total + row * SIDE,
                      b.mean + row * p.columns * SIDE, b.weights, tokens};
        }
    }
    score(nullptr, nullptr, 0, 0, nullptr, before);
    gather(before);
    give_means(p, b, first, pairs);
}

void packs(void* problem) {
    Problem& p = *static_cast<Problem*>(problem);
    long groups = up(p.keys, PAIR);
    for (long turn; (turn = p.next++) < p.turns;)
        for (long group = turn * p.per_turn; group < std::min(groups, (turn + 1) * p.per_turn); group++) pack(p, group);
}

// What a thread holds for a turn's queries, at `at`; its bytes.
size_t lay_out(const Problem& p, char* at, Block& b) {
    const size_t rows = p.per_turn * PAIR, start = reinterpret_cast<size_t>(at);
    const auto take = [&at](auto*& part, size_t count) {
        part = reinterpret_cast<decltype(part)>(at);
        at += up(count * sizeof(*part), ALIGNED) * ALIGNED;
    };
    take(b.query, rows * p.chunks * PAIR);
    take(b.mean, rows * p.columns * SIDE);
    take(b.total, rows * SIDE);
    take(b.top, rows);
    take(b.scores[0], PAIR * KEYS);
    take(b.scores[1], PAIR * KEYS);
    take(b.weights, PAIR * KEYS);
    return reinterpret_cast<size_t>(at) - start;
}

TILED void averages(void* problem) {
    Problem& p = *static_cast<Problem*>(problem);
    Block b;
    const size_t room = lay_out(p, nullptr, b), all = up(p.queries, PAIR);
    lay_out(p, p.rooms + p.workers++ * room, b);
    _tile_loadconfig(&SHAPES);
    for (long turn; (turn = p.next++) < p.turns;) {
        const long first = turn * p.per_turn, pairs = std::min<long>(p.per_turn, all - first);
        if (pairs > 0) average_block(p, b, first, pairs);
    }
    _tile_release();
}

template <class Task>
void together(void (*work)(void*), Task& task, long threads) {
    task.next = 0;
    if (threads > 1)
        GOMP_parallel(work, &task, static_cast<unsigned>(threads), 0);
    else
        work(&task);
}

struct Turning {
    const uint16_t* tokens;
    const float* turns;
    uint16_t* turned;
    long token_stride, turned_stride, count, width;
    std::atomic<long> next{0};
};

// Channel pairs (a, b) with turns (c, s) to (a c - b s, b c + a s).
INLINED __m512 turn(__m512i tokens, __m512 turns) {
    const __m512 pairs = _mm512_castsi512_ps(tokens);
    const __m512 across = _mm512_mul_ps(_mm512_permute_ps(pairs, 0xb1), _mm512_movehdup_ps(turns));
    return _mm512_fmaddsub_ps(pairs, _mm512_moveldup_ps(turns), across);
}

TILED void turn_all(void* turning) {
    Turning& t = *static_cast<Turning*>(turning);
    for (long piece; (piece = t.next++) * KEYS < t.count;)
        for (long row = piece * KEYS; row < std::min(t.count, (piece + 1) * KEYS); row++)
            for (long at = 0; at < t.width; at += PAIR) {
                const long left = t.width - at;
                const __mmask32 mask = left >= PAIR ? ~0u : (1u << left) - 1;
                const __m512i in = _mm512_maskz_loadu_epi16(mask, t.tokens + row * t.token_stride + at);
                const float* turns = t.turns + row * t.width + at;
                const __m512i low = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(in)), 16);
                const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(in, 1)), 16);
                const __m512 first = turn(low, _mm512_maskz_loadu_ps(mask, turns));
                const __m512 second = turn(high, _mm512_maskz_loadu_ps(mask >> SIDE, turns + SIDE));
                _mm512_mask_storeu_epi16(t.turned + row * t.turned_stride + at, mask,
                                         (__m512i)_mm512_cvtne2ps_pbh(second, first));
            }
}

const char* find_missing() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "the processor is too old";
    const unsigned vectors = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, tiles = 1u << 22 | 1u << 24;
    if ((d & tiles) != tiles) return "the processor has no tiles for bfloat16 (AMX)";
    if ((b & vectors) != vectors) return "the processor has no AVX-512";
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) return "the processor has no AVX-512 for bfloat16";
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */)) return "the system keeps tiles back";
    if (!GOMP_parallel) return "torch's threads are not OpenMP's";
    return nullptr;
}

}  // namespace

// Why there is no kernel here; null when there is one. Asks the system for the tiles' registers, once.
extern "C" const char* sam2core_amx_missing() {
    static const char* const reason = find_missing();
    return reason;
}

// bf16: query (queries, width), key (keys, width), tokens (keys, token_width) -> mean (queries, token_width); strides
// between rows, in numbers. Of keys and tokens those count that `chosen` (keys) names; null: the first `keys`.
// Returns 0, 1 where memory ran out, 2 where the kernel cannot run.
extern "C" int sam2core_amx_average(const uint16_t* query, long query_stride, long queries, const uint16_t* key,
                                    long key_stride, const uint16_t* tokens, long token_stride, const int64_t* chosen,
                                    long keys, long width, long token_width, float scale, uint16_t* mean, long mean_stride,
                                    long threads) {
    if (sam2core_amx_missing()) return 2;
    Problem p;
    p.query = query, p.key = key, p.tokens = tokens, p.chosen = chosen, p.mean = mean;
    p.query_stride = query_stride, p.key_stride = key_stride, p.token_stride = token_stride, p.mean_stride = mean_stride;
    p.queries = queries, p.keys = keys, p.width = width, p.token_width = token_width, p.scale = scale;
    p.chunks = up(width, PAIR), p.columns = 2 * up(token_width, PAIR);
    const long groups = up(keys, PAIR), pairs = up(queries, PAIR);
    const long query_turns = up(pairs, QUERIES / PAIR * threads) * threads;
    const size_t packed_keys = groups * 2 * p.chunks * TILE, packed_tokens = groups * p.columns * TILE;
    Block b;
    p.per_turn = up(pairs, query_turns);
    char* memory = claim((packed_keys + packed_tokens) * sizeof(uint16_t) + threads * lay_out(p, nullptr, b));
    if (!memory) return 1;
    p.packed_keys = reinterpret_cast<uint16_t*>(memory + ALIGNED);
    p.packed_tokens = p.packed_keys + packed_keys;
    p.rooms = reinterpret_cast<char*>(p.packed_tokens + packed_tokens);
    p.per_turn = 16, p.turns = up(groups, p.per_turn);
    together(packs, p, threads);
    p.per_turn = up(pairs, query_turns), p.turns = query_turns;
    together(averages, p, threads);
    release(memory);
    return 0;
}

// bf16 tokens (count, width), turned in pairs of channels by fp32 cosines and sines (count, width), -> turned.
extern "C" int sam2core_amx_turn(const uint16_t* tokens, long token_stride, long count, const float* turns, long width,
                                 uint16_t* turned, long turned_stride, long threads) {
    if (sam2core_amx_missing()) return 2;
    Turning t;
    t.tokens = tokens, t.turns = turns, t.turned = turned, t.count = count, t.width = width;
    t.token_stride = token_stride, t.turned_stride = turned_stride;
    together(turn_all, t, threads);
    return 0;
}
#else
extern "C" const char* sam2core_amx_missing() { return "not an x86-64 processor under Linux"; }
#endif
