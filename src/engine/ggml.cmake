# CMake reads this at the end of ggml's own `project(ggml)`, since `.cargo/config.toml` names it.
#
# Attention over fewer than 64 rows, which is what replies and drafts are, takes the numbers of a head in
# steps of 32 with AVX2, of 64 with AVX-512 and of 128 with AVX512-FP16 (simd-mappings.h), and computes
# one by one what is left. Most small models have heads of 64 or fewer numbers, and were slower the newer
# the processor: docs/engine.md has figures. The two files with these steps do without AVX-512; what
# multiplies weights is in others.
#
# And AMX, which multiplies them three times as fast, needs what tiles.h says.
if(CMAKE_VERSION VERSION_LESS 3.19
   OR NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang"
   OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
endif()

set(hedge_tiles "${CMAKE_CURRENT_LIST_DIR}/tiles.h")

function(hedge_mend_ggml)
    set(folder "${CMAKE_CURRENT_SOURCE_DIR}/src")
    set_source_files_properties("${folder}/ggml-cpu/ops.cpp" "${folder}/ggml-cpu/vec.cpp"
        DIRECTORY "${folder}" PROPERTIES COMPILE_OPTIONS -mno-avx512f)
    set_source_files_properties("${folder}/ggml-cpu/amx/mmq.cpp"
        DIRECTORY "${folder}" PROPERTIES COMPILE_OPTIONS "-include;${hedge_tiles}")
endfunction()

# When that folder is known.
cmake_language(DEFER CALL hedge_mend_ggml)
