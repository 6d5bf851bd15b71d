//! local inference: scheduler, slots, llama.cpp behind the feature llama
