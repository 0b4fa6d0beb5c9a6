// CUDA C++ on the host, for tests: what kernels use of the language, and launches in any order of threads.
//
// Three ways to run the threads of a launch, chosen when this is compiled:
//   by default     one after another, block after block; for kernels without barriers
//   EMULATE_FIBRES one fibre per thread of a block, switched at barriers and warp operations; block after block
//   EMULATE_THREADS one system thread per CUDA thread, all blocks at once where nothing is shared between threads of a
//                  block, so that a thread sanitizer sees every unordered access
// With an order other than 0 blocks and threads are shuffled, at every barrier anew.

#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utility>

#if defined(EMULATE_THREADS)
#include <pthread.h>
#define PER_THREAD thread_local
#else
#define PER_THREAD
#endif
#if defined(EMULATE_FIBRES)
#include <ucontext.h>
#endif

// ---- the language ----------------------------------------------------------------------------------------------

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct int2 { int x, y; };
struct int3 { int x, y, z; };
struct int4 { int x, y, z, w; };
struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct float4 { float x, y, z, w; };
struct double2 { double x, y; };
struct double4 { double x, y, z, w; };
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __restrict__ __restrict
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define CUDART_INF INFINITY
#define CUDART_INF_F INFINITY
#define CUDART_PI 3.14159265358979323846

static PER_THREAD uint3 blockIdx, threadIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

template <typename T> static inline T min(T a, T b) { return b < a ? b : a; }
template <typename T> static inline T max(T a, T b) { return a < b ? b : a; }

template <typename T> static inline T __ldg(const T* at) { return *at; }
template <typename T> static inline T __ldcg(const T* at) { return *at; }
template <typename T> static inline T __ldcs(const T* at) { return *at; }
template <typename T> static inline void __stcs(T* at, T value) { *at = value; }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf(a) expf(a)
#define __logf(a) logf(a)
#define __powf(a, b) powf(a, b)
#define __sinf(a) sinf(a)
#define __cosf(a) cosf(a)
static inline float __saturatef(float a) { return a < 0 ? 0.0f : a > 1 ? 1.0f : a; }
static inline float rsqrtf(float a) { return 1 / sqrtf(a); }
static inline double rsqrt(double a) { return 1 / sqrt(a); }
static inline float rsqrt(float a) { return 1 / sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1 / a; }
static inline int __float2int_rd(float a) { return int(floorf(a)); }
static inline int __float2int_ru(float a) { return int(ceilf(a)); }
static inline int __float2int_rn(float a) { return int(rintf(a)); }
static inline int __float2int_rz(float a) { return int(a); }
static inline int __double2int_rd(double a) { return int(floor(a)); }
static inline long long __double2ll_rn(double a) { return llrint(a); }
static inline long long __float2ll_rn(float a) { return llrintf(a); }
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
static inline int __float_as_int(float a) { int b; memcpy(&b, &a, 4); return b; }
static inline float __int_as_float(int a) { float b; memcpy(&b, &a, 4); return b; }

#if defined(EMULATE_HALF)  // a source that includes cuda_fp16.h
struct __half {
    _Float16 value;
    __half() = default;
    __half(float v) : value(_Float16(v)) {}
    operator float() const { return float(value); }
};
typedef __half half;
struct __half2 { __half x, y; };
typedef __half2 half2;
static inline __half __float2half(float v) { return __half(v); }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline float __half2float(__half v) { return float(v.value); }
static inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
static inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
#endif

// ---- atomic operations -----------------------------------------------------------------------------------------

template <typename T, typename F> static inline T change(T* at, F next) {
    T old, made;
    __atomic_load(at, &old, __ATOMIC_RELAXED);
    do made = next(old);
    while (!__atomic_compare_exchange(at, &old, &made, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <typename T> static inline T atomicAdd(T* at, T v) { return change(at, [v](T a) { return T(a + v); }); }
template <typename T> static inline T atomicSub(T* at, T v) { return change(at, [v](T a) { return T(a - v); }); }
template <typename T> static inline T atomicMax(T* at, T v) { return change(at, [v](T a) { return a < v ? v : a; }); }
template <typename T> static inline T atomicMin(T* at, T v) { return change(at, [v](T a) { return v < a ? v : a; }); }
template <typename T> static inline T atomicExch(T* at, T v) { return change(at, [v](T) { return v; }); }
template <typename T> static inline T atomicOr(T* at, T v) { return change(at, [v](T a) { return T(a | v); }); }
template <typename T> static inline T atomicAnd(T* at, T v) { return change(at, [v](T a) { return T(a & v); }); }
template <typename T> static inline T atomicCAS(T* at, T expected, T v) {
    return change(at, [=](T a) { return a == expected ? v : a; });
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// ---- orders ----------------------------------------------------------------------------------------------------

static uint64_t order_state;
static bool shuffled;

static inline unsigned drawn(unsigned below) {
    order_state ^= order_state << 13, order_state ^= order_state >> 7, order_state ^= order_state << 17;
    return unsigned(order_state % below);
}

static inline void arrange(unsigned* order, unsigned n) {
    for (unsigned i = 0; i < n; ++i) order[i] = i;
    if (shuffled)
        for (unsigned i = n; i > 1; --i) {
            const unsigned j = drawn(i), kept = order[j];
            order[j] = order[i - 1];
            order[i - 1] = kept;
        }
}

static inline uint3 place(unsigned n, dim3 d) { return {n % d.x, n / d.x % d.y, n / d.x / d.y}; }

// ---- barriers --------------------------------------------------------------------------------------------------

static char* dynamic_shared_memory;

#if defined(EMULATE_FIBRES) || defined(EMULATE_THREADS)
static unsigned block_size;
static int votes[3];                       // of __syncthreads_or, _and and _count
struct Warp { unsigned char slots[32][16]; unsigned asked; };
static Warp warps[32];
static PER_THREAD unsigned own;            // the number of this thread in its block

static void wait_for_block();
static void wait_for_warp(unsigned mask);

static inline void __syncthreads() { wait_for_block(); }
static inline int __syncthreads_or(int said) {
    if (said) __atomic_store_n(&votes[0], 1, __ATOMIC_RELAXED);
    wait_for_block();
    const int found = __atomic_load_n(&votes[0], __ATOMIC_RELAXED);
    wait_for_block();
    __atomic_store_n(&votes[0], 0, __ATOMIC_RELAXED);
    wait_for_block();
    return found;
}
static inline int __syncthreads_and(int said) { return !__syncthreads_or(!said); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { wait_for_warp(mask); }

// What lane `from` of the warp holds; lanes of the mask only.
template <typename T> static inline T exchanged(unsigned mask, T value, int from) {
    static_assert(sizeof(T) <= 16, "a lane passes on at most 16 bytes");
    Warp& warp = warps[own / 32];
    memcpy(warp.slots[own % 32], &value, sizeof(T));
    wait_for_warp(mask);
    T found = value;
    if (from >= 0 && from < 32 && (mask >> from & 1)) memcpy(&found, warp.slots[from], sizeof(T));
    wait_for_warp(mask);
    return found;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
    const int here = int(own % 32);
    return exchanged(mask, v, here / width * width + (lane & (width - 1)));
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
    const int here = int(own % 32), from = here - int(by);
    return exchanged(mask, v, from < here / width * width ? here : from);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    const int here = int(own % 32), from = here + int(by);
    return exchanged(mask, v, from >= (here / width + 1) * width ? here : from);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32) {
    const int here = int(own % 32), from = here ^ by;
    return exchanged(mask, v, from >= (here / width + 1) * width ? here : from);
}
static inline unsigned __ballot_sync(unsigned mask, int said) {
    unsigned found = 0;
    for (int lane = 0; lane < 32; ++lane) {
        const int other = exchanged(mask, said, lane);
        if ((mask >> lane & 1) && other) found |= 1u << lane;
    }
    return found;
}
static inline int __any_sync(unsigned mask, int said) { return __ballot_sync(mask, said) != 0; }
static inline int __all_sync(unsigned mask, int said) { return __ballot_sync(mask, said) == mask; }
#endif

static void fail(const char* what) {
    fprintf(stderr, "emulated device: %s\n", what);
    abort();
}

// ---- launches --------------------------------------------------------------------------------------------------

struct Job { void (*call)(void*); void* closure; };

#if defined(EMULATE_THREADS)

struct Gate {  // all threads of a block, or the lanes of a mask
    pthread_mutex_t lock;
    pthread_cond_t open;
    unsigned waiting, round, gone;
};
static Gate block_gate, warp_gates[32];

static void pass(Gate& gate, unsigned needed) {
    pthread_mutex_lock(&gate.lock);
    const unsigned round = gate.round;
    if (++gate.waiting + gate.gone >= needed) {
        gate.waiting = 0;
        ++gate.round;
        pthread_cond_broadcast(&gate.open);
    }
    while (round == gate.round) pthread_cond_wait(&gate.open, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}
static void wait_for_block() { pass(block_gate, block_size); }
static void wait_for_warp(unsigned mask) { pass(warp_gates[own / 32], unsigned(__builtin_popcount(mask))); }

struct Start { Job job; uint3 block, thread; unsigned own; };
static void* begin(void* at) {
    const Start* start = static_cast<Start*>(at);
    blockIdx = start->block, threadIdx = start->thread, own = start->own;
    start->job.call(start->job.closure);
    pthread_mutex_lock(&block_gate.lock);  // whoever has ended does not keep a barrier shut
    ++block_gate.gone;
    if (block_gate.waiting && block_gate.waiting + block_gate.gone >= block_size) {
        block_gate.waiting = 0;
        ++block_gate.round;
        pthread_cond_broadcast(&block_gate.open);
    }
    pthread_mutex_unlock(&block_gate.lock);
    return nullptr;
}

static void run_all(Job job, const unsigned* blocks, unsigned n_blocks) {
    const unsigned n = block_size, at_once = SHARES_MEMORY ? 1 : n_blocks;
    Start* starts = static_cast<Start*>(malloc(size_t(n) * at_once * sizeof(Start)));
    pthread_t* threads = static_cast<pthread_t*>(malloc(size_t(n) * at_once * sizeof(pthread_t)));
    unsigned* order = static_cast<unsigned*>(malloc(n * sizeof(unsigned)));
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 18);
    for (unsigned first = 0; first < n_blocks; first += at_once) {
        block_gate.gone = block_gate.waiting = 0;
        unsigned made = 0;
        for (unsigned b = first; b < first + at_once; ++b) {
            arrange(order, n);
            for (unsigned t = 0; t < n; ++t, ++made) {
                starts[made] = {job, place(blocks[b], gridDim), place(order[t], blockDim), order[t]};
                if (pthread_create(&threads[made], &small, begin, &starts[made])) fail("no more threads");
            }
        }
        for (unsigned t = 0; t < made; ++t) pthread_join(threads[t], nullptr);
    }
    free(starts), free(threads), free(order);
}

static void prepare_gates() {
    for (int w = 0; w < 32; ++w) pthread_mutex_init(&warp_gates[w].lock, 0), pthread_cond_init(&warp_gates[w].open, 0);
    pthread_mutex_init(&block_gate.lock, 0), pthread_cond_init(&block_gate.open, 0);
}

#elif defined(EMULATE_FIBRES)

enum State { READY, AT_BLOCK, AT_WARP, DONE };
struct Fibre { ucontext_t context; State state; unsigned mask; };
static Fibre fibres[1024];
static char* stacks;
static const size_t STACK = 1 << 16;
static ucontext_t scheduler;
static Job current;

static void leave(State state, unsigned mask) {
    fibres[own].state = state, fibres[own].mask = mask;
    swapcontext(&fibres[own].context, &scheduler);
}
static void wait_for_block() { leave(AT_BLOCK, 0); }
static void wait_for_warp(unsigned mask) {
    if (!(mask >> own % 32 & 1)) fail("a thread waits for a warp without being in the mask");
    leave(AT_WARP, mask);
}
static void begin() {
    current.call(current.closure);
    leave(DONE, 0);
}

static void run_block(Job job, unsigned block) {
    unsigned order[1024];
    const unsigned n = block_size;
    if (!stacks) stacks = static_cast<char*>(malloc(STACK * 1024));
    current = job;
    blockIdx = place(block, gridDim);
    for (unsigned t = 0; t < n; ++t) {
        getcontext(&fibres[t].context);
        fibres[t].context.uc_stack.ss_sp = stacks + t * STACK;
        fibres[t].context.uc_stack.ss_size = STACK;
        fibres[t].context.uc_link = nullptr;
        makecontext(&fibres[t].context, begin, 0);
        fibres[t].state = READY;
    }
    for (;;) {
        unsigned ran = 0, done = 0, at_block = 0;
        arrange(order, n);
        for (unsigned i = 0; i < n; ++i) {
            const unsigned t = order[i];
            if (fibres[t].state != READY) continue;
            own = t, threadIdx = place(t, blockDim), ++ran;
            swapcontext(&scheduler, &fibres[t].context);
        }
        for (unsigned t = 0; t < n; ++t) done += fibres[t].state == DONE, at_block += fibres[t].state == AT_BLOCK;
        if (done == n) return;
        if (done + at_block == n) {
            for (unsigned t = 0; t < n; ++t)
                if (fibres[t].state == AT_BLOCK) fibres[t].state = READY, ++ran;
            continue;
        }
        unsigned freed = 0;
        for (unsigned first = 0; first < n; first += 32)
            for (unsigned t = first; t < first + 32 && t < n; ++t) {
                if (fibres[t].state != AT_WARP) continue;
                const unsigned mask = fibres[t].mask;
                bool all = true;
                for (unsigned lane = 0; lane < 32 && first + lane < n; ++lane)
                    if (mask >> lane & 1)
                        all = all && fibres[first + lane].state == AT_WARP && fibres[first + lane].mask == mask;
                if (!all) continue;
                for (unsigned lane = 0; lane < 32 && first + lane < n; ++lane)
                    if (mask >> lane & 1) fibres[first + lane].state = READY, ++freed;
            }
        if (!ran && !freed) fail("threads wait for each other at different barriers");
    }
}
static void run_all(Job job, const unsigned* blocks, unsigned n_blocks) {
    for (unsigned b = 0; b < n_blocks; ++b) run_block(job, blocks[b]);
}
static void prepare_gates() {}

#else

static unsigned block_size;
static void run_all(Job job, const unsigned* blocks, unsigned n_blocks) {
    unsigned order[1024];
    for (unsigned b = 0; b < n_blocks; ++b) {
        blockIdx = place(blocks[b], gridDim);
        arrange(order, block_size);
        for (unsigned t = 0; t < block_size; ++t) {
            threadIdx = place(order[t], blockDim);
            job.call(job.closure);
        }
    }
}
static void prepare_gates() {}

#endif

static void launch(Job job, const int* grid, const int* block, int shared_bytes, uint64_t order) {
    gridDim = {unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
    blockDim = {unsigned(block[0]), unsigned(block[1]), unsigned(block[2])};
    block_size = blockDim.x * blockDim.y * blockDim.z;
    shuffled = order != 0;
    order_state = order * 0x9e3779b97f4a7c15u + 0x1234567u;
    const unsigned n = gridDim.x * gridDim.y * gridDim.z;
    unsigned* blocks = static_cast<unsigned*>(malloc(n * sizeof(unsigned)));
    dynamic_shared_memory = shared_bytes ? static_cast<char*>(malloc(size_t(shared_bytes))) : nullptr;
    if (shared_bytes) memset(dynamic_shared_memory, 0xab, size_t(shared_bytes));
    prepare_gates();
    arrange(blocks, n);
    run_all(job, blocks, n);
    free(dynamic_shared_memory);
    free(blocks);
}

template <typename T> static T read(void* p) { T value; memcpy(&value, p, sizeof(T)); return value; }

template <typename... P> struct Call {
    void (*kernel)(P...);
    void** arguments;
};
template <typename... P, size_t... I> static void call(Call<P...>* c, std::index_sequence<I...>) {
    c->kernel(read<P>(c->arguments[I])...);
}
template <typename... P> static void call_with(void* at) {
    call(static_cast<Call<P...>*>(at), std::index_sequence_for<P...>());
}
template <typename... P>
static void run(void (*kernel)(P...), const int* grid, const int* block, int shared_bytes, uint64_t order, void** args) {
    Call<P...> bound = {kernel, args};
    launch({call_with<P...>, &bound}, grid, block, shared_bytes, order);
}

// The types of a kernel's parameters: a letter and a size each; P for a pointer before what it points to.
template <typename T> struct Name {
    static void write(char*& to) {
        *to++ = T(0.5) != T(0) ? 'f' : T(-1) < T(0) ? 'i' : 'u';
        *to++ = char('0' + sizeof(T));
    }
};
template <typename T> struct Name<const T> : Name<T> {};
template <typename T> struct Name<T*> {
    static void write(char*& to) {
        *to++ = 'P';
        Name<T>::write(to);
    }
};
template <> struct Name<bool> { static void write(char*& to) { *to++ = 'b', *to++ = '1'; } };
#define OTHER(type, letter, size) \
    template <> struct Name<type> { static void write(char*& to) { *to++ = letter, *to++ = size; } };
OTHER(float2, 'f', '4') OTHER(float3, 'f', '4') OTHER(float4, 'f', '4') OTHER(int2, 'i', '4') OTHER(int3, 'i', '4')
OTHER(int4, 'i', '4') OTHER(double2, 'f', '8') OTHER(double4, 'f', '8') OTHER(uint3, 'u', '4') OTHER(void, 'v', '1')
#if defined(EMULATE_HALF)
OTHER(__half, 'f', '2') OTHER(__half2, 'f', '2')
#endif
template <typename... P> static const char* types_of(void (*)(P...)) {
    static char text[8 * (sizeof...(P) + 1)];
    char* to = text;
    (void)std::initializer_list<int>{(Name<P>::write(to), *to++ = ' ', 0)...};
    *to = 0;
    return text;
}
